"""The folders of a store: made when a blob comes, removed with the last one, durable before a commit.

Paths are relative to the store's directory. All functions block.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress

from .ingest_file import MODE
from .paths import folder_of

# A folder may vanish between being made and being used, when another process removes the last blob
# of it; each round loses to one such removal.
MAX_ROUNDS = 100

# Folders known to be durable; forgetting one costs one more fsync.
MAX_REMEMBERED = 10_000


class Folders:
    """The tree of folders below ``root_fd``, whose files have the mode ``file_mode``."""

    def __init__(self, root_fd: int, *, file_mode: int, fsync: bool) -> None:
        self._root_fd = root_fd
        self._file_mode = file_mode
        self._fsync = fsync
        # Held while a name appears or a folder vanishes, so that neither meets the other half-way.
        self._lock = threading.Lock()
        self._durable: set[str] = set()
        self._removals = 0

    def link(self, source: str, name: str, source_fd: int | None = None) -> None:
        """Give the file ``source`` (relative to ``source_fd``) the name ``name``, durably.

        Raises FileExistsError when the name is taken.
        """
        folder = os.path.dirname(name)
        for last_round in [False] * (MAX_ROUNDS - 1) + [True]:
            try:
                with self._lock:
                    self._make(folder)
                    with folder_of(self._root_fd, name) as (folder_fd, last):
                        os.link(source, last, src_dir_fd=source_fd, dst_dir_fd=folder_fd)
                break
            except FileNotFoundError:
                if last_round:
                    raise
        self._sync_up(folder)

    def prepare_file(self, fd: int) -> None:
        """Give its mode to a file that gets a name next, and sync its bytes."""
        if self._file_mode != MODE:
            os.fchmod(fd, self._file_mode)
        if self._fsync:
            os.fdatasync(fd)

    def unlink(self, name: str) -> None:
        """Remove a file and every folder that becomes empty by it. Raises FileNotFoundError."""
        with self._lock:
            with folder_of(self._root_fd, name) as (folder_fd, last):
                os.unlink(last, dir_fd=folder_fd)
            folder = os.path.dirname(name)
            while folder and self._remove_if_empty(folder):
                folder = os.path.dirname(folder)

    def _make(self, folder: str) -> None:
        if not folder:
            return
        try:
            with folder_of(self._root_fd, folder) as (above_fd, last):
                make_folder(last, self._file_mode, above_fd)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make(os.path.dirname(folder))
            self._make(folder)

    def _remove_if_empty(self, folder: str) -> bool:
        try:
            with folder_of(self._root_fd, folder) as (above_fd, last):
                os.rmdir(last, dir_fd=above_fd)
        except OSError:  # not empty, or somebody else's doing; an empty folder left behind harms nobody
            return False
        self._durable.discard(folder)
        self._removals += 1
        return True

    def _sync_up(self, folder: str) -> None:
        """Sync the entry just made in ``folder``, and the entries of folders not known to be durable."""
        if not self._fsync:
            return
        self._sync(folder)
        while folder:
            parent = os.path.dirname(folder)
            with self._lock:
                if folder in self._durable:
                    return
                removals = self._removals
            self._sync(parent)
            self._remember(folder, removals)
            folder = parent

    def _remember(self, folder: str, removals: int) -> None:
        with self._lock:
            if removals != self._removals:
                return  # what was synced may not be the folder that has the name now
            if len(self._durable) >= MAX_REMEMBERED:
                self._durable.clear()
            self._durable.add(folder)

    def _sync(self, folder: str) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with folder_of(self._root_fd, folder) as (above_fd, last):
                fd = os.open(last or ".", flags, dir_fd=above_fd)
        except FileNotFoundError:  # its last blob was deleted meanwhile, ours with it
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_folder(path: str | os.PathLike[str], file_mode: int, dir_fd: int | None = None) -> None:
    """Make a folder that whoever may read or write files of ``file_mode`` may list or change.

    Raises FileExistsError.
    """
    wanted = file_mode | (file_mode & 0o444) >> 2 | (file_mode & 0o222) >> 1
    os.mkdir(path, wanted, dir_fd=dir_fd)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        if status.st_mode & 0o777 != wanted and _keeps_its_group_bit(status):  # narrower, by the umask
            # A service that may set no such bit (RestrictSUIDSGID) leaves the folder as it is.
            with suppress(PermissionError):
                os.fchmod(fd, stat.S_IMODE(status.st_mode) & ~0o777 | wanted)
    finally:
        os.close(fd)


def _keeps_its_group_bit(status: os.stat_result) -> bool:
    """Whether a folder that hands its group on still does after a change of its mode by this process."""
    hands_on = status.st_mode & stat.S_ISGID
    return not hands_on or os.geteuid() == 0 or status.st_gid in (os.getegid(), *os.getgroups())
