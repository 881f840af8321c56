"""The blobs below a directory in the order of their ids, folder by folder."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

from imsd.contract import BlobId, StoredBlob

from .ingest import stored_blob
from .paths import folder_of

# What a segment of an id looks like; the store ignores all else, such as `lost+found`.
SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")

# The longest id.
MAX_ID = 255

# Entries of one folder in memory; of a larger one the rest is looked for again when these are done.
MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob's id, or a folder's with a '/' at its end. So they sort as the ids they stand for.

    ``is_rest``: what comes behind the entry in its folder, not looked at yet.
    """

    id: str
    is_rest: bool = False

    @property
    def is_folder(self) -> bool:
        return self.id.endswith("/")

    @property
    def is_blob(self) -> bool:
        return not self.is_folder and not self.is_rest


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


@dataclass(frozen=True, slots=True)
class Tree:
    """The directory ``root_fd``. ``is_shared``: others have folders there, and may keep the daemon out."""

    root_fd: int
    is_shared: bool = False

    def scan_behind(self, entry: Entry | None, wanted: Wanted) -> list[Entry]:
        """`scan` the folder ``entry`` (None: the root), or the rest behind it."""
        if entry is None or not entry.is_rest:
            return self.scan(entry.id if entry else "", wanted)
        above = entry.id.removesuffix("/").rpartition("/")[0]
        return self.scan(f"{above}/" if above else "", wanted, entry.id)

    def scan(self, folder: str, wanted: Wanted, behind: str = "") -> list[Entry]:
        """The wanted entries of one folder ('' or 'a/b/') that sort after ``behind``, last one first. Blocks.

        At most `MAX_ENTRIES`, and one that stands for the rest.
        """
        try:
            fd = self._open(folder)
        except (FileNotFoundError, NotADirectoryError):  # its last blob was deleted meanwhile
            return []
        except PermissionError:
            if self.is_shared:
                return []
            raise
        try:
            with os.scandir(fd) as found:
                entries = (_entry(folder, each) for each in found)
                first = nsmallest(
                    MAX_ENTRIES + 1,
                    (each for each in entries if each and each.id > behind and wanted.covers(each)),
                    key=lambda entry: entry.id,
                )
        finally:
            os.close(fd)
        if len(first) > MAX_ENTRIES:
            first[-1] = Entry(first[-2].id, is_rest=True)
        return first[::-1]

    def stat_all(self, blobs: Sequence[str]) -> list[StoredBlob]:
        """What is known of ``blobs``; those deleted meanwhile are left out. Blocks."""
        stored = []
        for blob in blobs:
            try:
                stored.append(stat_one(self.root_fd, BlobId(blob)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                if not self.is_shared:
                    raise
        return stored

    def _open(self, folder: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with folder_of(self.root_fd, folder.removesuffix("/")) as (above_fd, last):
            return os.open(last or ".", flags, dir_fd=above_fd)


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
