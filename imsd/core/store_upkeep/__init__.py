"""What is done for stores beside the calls: see README.md of the core."""
