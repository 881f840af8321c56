"""Generated from `proto/imsd/v1`; `make proto` renews it. Never edited."""
