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


@dataclass(slots=True)
class OpenBlob:
    """A descriptor and the size in bytes, which never changes. ``readers`` use it now."""

    fd: int
    size_bytes: int
    readers: int = 0
    is_kept: bool = False


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
            if name in self._kept:
                self._kept.move_to_end(name)
                self._kept[name].readers += 1
                return self._kept[name]
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

    def _open(self, name: str) -> OpenBlob:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._root_fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return OpenBlob(fd, status.st_size)
