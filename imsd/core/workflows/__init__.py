"""One file per workflow, each reading like the story it tells; every step is idempotent."""
