"""What is inside a disk: partitions, file systems, the operating system, and whether it will boot."""
