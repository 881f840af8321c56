"""What downloads would otherwise compress twice, kept aside in files that have no name.

A file of compressed pieces begins with tables that tell how long each piece is, so all are compressed before
the first byte leaves. A spool keeps them until their turn. It lies on disk, not in memory; it is gone when
the download ends, or the process, however that happens. What finds no room is compressed once more.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from imsd.contract import Buffer
from imsd.formats.writer import Spool

# A file system is never filled up: others write to it too, a database for example.
MIN_FREE_BYTES = 1 << 30


class SpoolFolder:
    """Where spools lie; all that are open at once hold at most ``quota_bytes``. Thread-safe.

    ``folder`` None: where the system keeps temporary files, looked for when the first spool is used.
    """

    def __init__(self, folder: Path | None, quota_bytes: int) -> None:
        self.folder = folder
        self._free_bytes = quota_bytes
        self._lock = threading.Lock()

    def spool(self) -> FileSpool:
        """A new one, to be closed by the caller. It makes no file until it is used."""
        return FileSpool(self)

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes are within the quota; if so, they are taken."""
        with self._lock:
            if size > self._free_bytes:
                return False
            self._free_bytes -= size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._free_bytes += size


class FileSpool(Spool):
    """A file without a name; see `SpoolFolder.spool`."""

    def __init__(self, folder: SpoolFolder) -> None:
        self._folder = folder
        self._fd = -1
        self._end = 0
        self._is_full = False
        self._places: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def keep(self, key: int, content: Sequence[Buffer]) -> None:
        size = sum(map(len, content))
        start = self._room(size)
        if start < 0:
            return
        try:
            is_written = os.pwritev(self._fd, content, start) == size
        except OSError:
            is_written = False
        if is_written:
            self._places[key] = (start, size)
        else:
            self._is_full = True

    def kept(self, key: int) -> bytes | None:
        place = self._places.get(key)
        if place is None:
            return None
        start, size = place
        content = os.pread(self._fd, size, start)
        return content if len(content) == size else None

    def close(self) -> None:
        """Forget everything, when nobody uses it any more. May wait for the disk."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._places.clear()
        self._folder.give_back(self._end)
        self._end = 0

    def _room(self, size: int) -> int:
        """Where in the file ``size`` bytes may be put; -1 for nowhere."""
        with self._lock:
            if self._is_full or not self._folder.take(size):
                return -1
            start = self._end
            self._end += size
            try:
                if self._fd < 0:
                    self._fd = _open_nameless(self._folder.folder)
                room = os.fstatvfs(self._fd)
                self._is_full = room.f_bavail * room.f_frsize < size + MIN_FREE_BYTES
            except OSError:
                self._is_full = True
            return -1 if self._is_full else start


def _open_nameless(folder: Path | None) -> int:
    """Raises OSError."""
    with tempfile.TemporaryFile(prefix="imsd-spool-", dir=folder) as file:
        return os.dup(file.fileno())
