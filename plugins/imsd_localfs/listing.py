"""The blobs below a directory in the order of their ids, folder by folder."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from imsd.contract import BlobId, StoredBlob

from .ingest import stored_blob
from .paths import folder_of

# What a segment of an id looks like; the store ignores all else, such as `lost+found`.
SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")

# The longest id.
MAX_ID = 255


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob's id, or a folder's with a '/' at its end. So they sort as the ids they stand for."""

    id: str

    @property
    def is_folder(self) -> bool:
        return self.id.endswith("/")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ids that start with ``prefix`` and sort after ``after``."""

    prefix: str
    after: str

    def covers(self, entry: Entry) -> bool:
        """Whether the blob, or some blob that the folder can hold, is wanted."""
        if not entry.is_folder:
            return entry.id.startswith(self.prefix) and entry.id > self.after
        in_prefix = entry.id.startswith(self.prefix) or self.prefix.startswith(entry.id)
        return in_prefix and (entry.id > self.after or self.after.startswith(entry.id))


def scan(root_fd: int, folder: str, wanted: Wanted) -> list[Entry]:
    """The wanted entries of one folder ('' or 'a/b/'), last one first. Blocks."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with folder_of(root_fd, folder.removesuffix("/")) as (above_fd, last):
            fd = os.open(last or ".", flags, dir_fd=above_fd)
    except (FileNotFoundError, NotADirectoryError):  # its last blob was deleted meanwhile
        return []
    try:
        with os.scandir(fd) as found:
            entries = [entry for each in found if (entry := _entry(folder, each)) and wanted.covers(entry)]
    finally:
        os.close(fd)
    return sorted(entries, key=lambda entry: entry.id, reverse=True)


def stat_all(root_fd: int, blobs: Sequence[str]) -> list[StoredBlob]:
    """What is known of ``blobs``; those deleted meanwhile are left out. Blocks."""
    stored = []
    for blob in blobs:
        try:
            stored.append(stat_one(root_fd, BlobId(blob)))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return stored


def stat_one(root_fd: int, blob: BlobId) -> StoredBlob:
    """Raises FileNotFoundError, also for what is no file. Blocks."""
    with folder_of(root_fd, blob) as (folder_fd, last):
        status = os.stat(last, dir_fd=folder_fd, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return stored_blob(blob, status)


def _entry(folder: str, found: os.DirEntry[str]) -> Entry | None:
    if not SEGMENT.match(found.name) or len(folder) + len(found.name) > MAX_ID:
        return None
    if found.is_dir(follow_symlinks=False):
        return Entry(f"{folder}{found.name}/")
    return Entry(f"{folder}{found.name}") if found.is_file(follow_symlinks=False) else None
