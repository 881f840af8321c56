"""What the contracts promise, as checks without a test framework: for suites, and for a store in use."""
