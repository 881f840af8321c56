"""Generated from `proto/imsd/testing/v1`; `make proto` renews it. Never edited."""
