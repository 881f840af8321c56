"""Images offered as disks by the block server, a process beside the daemon."""
