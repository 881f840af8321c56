"""The block server: stored images as read-only disks over NBD, in a process of its own. See README.md."""
