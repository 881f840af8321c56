"""Blobs that stay open between reads: packs are read often, and each in small pieces."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .paths import folder_of


@dataclass(slots=True)
class OpenBlob:
    """A descriptor and what the file was when it was opened. ``readers`` use it now."""

    fd: int
    status: os.stat_result
    readers: int = 0
    is_kept: bool = False

    @property
    def size_bytes(self) -> int:
        return self.status.st_size


class OpenBlobs:
    """At most ``limit`` descriptors that nobody uses, the least recently used closed first. Thread-safe."""

    def __init__(self, root_fd: int, limit: int) -> None:
        self._root_fd = root_fd
        self._limit = limit
        self._kept: OrderedDict[str, OpenBlob] = OrderedDict()
        self._lock = threading.Lock()
        self._drops = 0

    @contextmanager
    def reading(self, name: str) -> Iterator[OpenBlob]:
        """The open blob ``name``; its descriptor stays valid in the block. Raises OSError."""
        blob = self._borrow(name)
        try:
            yield blob
        finally:
            self._return(blob)

    def drop(self, name: str) -> None:
        """Forget a blob that was just deleted, so that its room is freed."""
        with self._lock:
            self._drops += 1
            self._let_go(self._kept.pop(name, None))

    def close(self) -> None:
        with self._lock:
            while self._kept:
                self._let_go(self._kept.popitem()[1])

    def _borrow(self, name: str) -> OpenBlob:
        with self._lock:
            kept = self._kept.get(name)
            if kept:
                self._kept.move_to_end(name)
                kept.readers += 1
            drops = self._drops
        if kept:
            if self._is_current(name, kept):
                return kept
            self._return(kept)
            self.drop(name)
            drops = self._drops
        opened = self._open(name)
        with self._lock:
            opened.readers = 1
            # Another reader may have been faster; and a blob deleted since it was opened must not stay.
            if name not in self._kept and drops == self._drops:
                opened.is_kept = True
                self._kept[name] = opened
                if len(self._kept) > self._limit:
                    self._let_go(self._kept.popitem(last=False)[1])
        return opened

    def _return(self, blob: OpenBlob) -> None:
        with self._lock:
            blob.readers -= 1
            if not blob.is_kept and not blob.readers:
                os.close(blob.fd)

    def _let_go(self, blob: OpenBlob | None) -> None:
        """Close now, or with the last reader."""
        if blob is not None:
            blob.is_kept = False
            if not blob.readers:
                os.close(blob.fd)

    def _is_current(self, name: str, kept: OpenBlob) -> bool:
        """Whether nobody put another file in its place, or wrote to it, as other programs do in a bucket."""
        try:
            with folder_of(self._root_fd, name) as (folder_fd, last):
                now = os.stat(last, dir_fd=folder_fd, follow_symlinks=False)
        except OSError:  # the one that opens it tells what is wrong
            return False
        return _identity(now) == _identity(kept.status)

    def _open(self, name: str) -> OpenBlob:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with folder_of(self._root_fd, name) as (folder_fd, last):
            fd = os.open(last, flags, dir_fd=folder_fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return OpenBlob(fd, status)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
