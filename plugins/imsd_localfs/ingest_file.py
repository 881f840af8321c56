"""Files of ingests, before they have the name of a blob.

Where the file system can, such a file has no name at all (O_TMPFILE): the kernel frees it with its
last descriptor, so that a crash leaves nothing behind. Elsewhere (NFS, some FUSE) it has a random
name in the folder ``.ingest``; the file is locked while it is written, and whoever opens the store
removes those that nobody holds. All functions block.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from dataclasses import dataclass

FOLDER = ".ingest"

# Of a file that nobody has the name of yet, and of the folder for such files.
MODE, FOLDER_MODE = 0o600, 0o700

# How file systems and kernels say that they have no O_TMPFILE.
NOT_OFFERED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class IngestFile:
    """An open file. ``path`` is what can be linked to; ``folder_fd`` is None when the file has no name."""

    fd: int
    path: str
    folder_fd: int | None

    def close(self) -> None:
        """Close the file and remove its temporary name; a blob's name stays."""
        try:
            if self.folder_fd is not None:
                os.unlink(self.path, dir_fd=self.folder_fd)
        finally:
            os.close(self.fd)


class IngestFiles:
    """Makes the files of one store. ``unnamed``: see the module."""

    def __init__(self, root_fd: int, *, unnamed: bool) -> None:
        self._root_fd = root_fd
        self._folder_fd = None if unnamed else _open_folder(root_fd, create=True)

    def create(self) -> IngestFile:
        if self._folder_fd is None:
            fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, MODE, dir_fd=self._root_fd)
            # Linking through /proc needs no privilege, unlike AT_EMPTY_PATH; see open(2).
            return IngestFile(fd, f"/proc/self/fd/{fd}", None)
        while True:
            name = secrets.token_hex(16)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(name, flags, MODE, dir_fd=self._folder_fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # not taken for a stale one before it was locked
                return IngestFile(fd, name, self._folder_fd)
            os.close(fd)

    def close(self) -> None:
        if self._folder_fd is not None:
            os.close(self._folder_fd)


def offers_unnamed_files(root_fd: int) -> bool:
    """Whether the file system has O_TMPFILE and /proc is there to link such a file."""
    try:
        fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, MODE, dir_fd=root_fd)
    except OSError as error:
        return error.errno not in NOT_OFFERED  # a full or read-only disk says so when something is written
    try:
        return os.path.exists(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def remove_stale_files(root_fd: int) -> int:
    """Remove files of ingests that died; returns how many. Those of a living process stay."""
    try:
        folder_fd = _open_folder(root_fd, create=False)
    except OSError:  # there is none
        return 0
    try:
        return sum(_remove_if_stale(name, folder_fd) for name in os.listdir(folder_fd))
    finally:
        os.close(folder_fd)


def _remove_if_stale(name: str, folder_fd: int) -> bool:
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError:  # gone, or not ours
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder_fd)
    except OSError:  # held, gone, or the disk is read-only
        return False
    finally:
        os.close(fd)
    return True


def _open_folder(root_fd: int, *, create: bool) -> int:
    if create:
        try:
            os.mkdir(FOLDER, FOLDER_MODE, dir_fd=root_fd)
        except FileExistsError:
            pass
    return os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
