"""What can be configured of a store in a directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from imsd.contract import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStoreOptions:
    """The keys of a section ``[stores.NAME]`` with ``driver = "localfs"``.

    ``is_shared``: whether others have files and folders of their own in the directory.
    """

    is_shared: ClassVar[bool] = False

    # The directory that holds the blobs; made if its parent exists. Nobody else writes in it.
    path: Path

    # Sync bytes and names to the disk before a commit returns. Without it a power cut may lose
    # images that were reported as stored: for trials only.
    fsync: bool = True

    # Calls to the file system that run at once, 1 to 64.
    threads: int = 6

    # Blobs that stay open between reads, 1 to 10,000; each takes a file descriptor.
    open_files: int = 64

    # The mode of the files, as octal digits; folders let in whoever may read or write the files. The umask
    # of the daemon counts for nothing where the system lets it change modes (README.md).
    file_mode: str = "0600"

    @property
    def mode(self) -> int:
        """`file_mode`, as a number."""
        return int(self.file_mode, 8)

    def __post_init__(self) -> None:
        if not re.fullmatch("0?6[0246][0246]", self.file_mode):
            raise InvalidRequest(
                f"file_mode is {self.file_mode!r}, but must be 0600 to 0666, without a right to execute",
                reason="INVALID_CONFIGURATION",
                field="file_mode",
                hint='write it as a text of octal digits: "0640"',
            )
        for key, value, highest in (("threads", self.threads, 64), ("open_files", self.open_files, 10_000)):
            if not 1 <= value <= highest:
                raise InvalidRequest(
                    f"{key} is {value}, but must be 1 to {highest}", reason="INVALID_CONFIGURATION", field=key
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBucketOptions(LocalStoreOptions):
    """The same of a section ``[buckets.NAME]``."""

    is_shared: ClassVar[bool] = True

    # What is exported is for others to read: those of the group of the directory, if it hands its group on
    # (chmod g+s), else of the daemon's.
    file_mode: str = "0640"
