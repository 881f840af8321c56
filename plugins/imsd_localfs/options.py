"""What can be configured of a store in a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imsd.contract import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStoreOptions:
    """The keys of a section ``[stores.NAME]`` with ``driver = "localfs"``."""

    # The directory that holds the blobs; made if its parent exists. Nobody else writes in it.
    path: Path

    # Sync bytes and names to the disk before a commit returns. Without it a power cut may lose
    # images that were reported as stored: for trials only.
    fsync: bool = True

    # Calls to the file system that run at once, 1 to 64.
    threads: int = 6

    # Blobs that stay open between reads, 1 to 10,000; each takes a file descriptor.
    open_files: int = 64

    def __post_init__(self) -> None:
        for key, value, highest in (("threads", self.threads, 64), ("open_files", self.open_files, 10_000)):
            if not 1 <= value <= highest:
                raise InvalidRequest(
                    f"{key} is {value}, but must be 1 to {highest}", reason="INVALID_CONFIGURATION", field=key
                )
