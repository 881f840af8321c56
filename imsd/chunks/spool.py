"""What downloads would otherwise compress twice, kept aside in files that have no name.

A file of compressed pieces begins with tables that tell how long each piece is, so all are compressed before
the first byte leaves. A spool keeps them until their turn. It lies on disk, not in memory; it is gone when
the download ends, or the process, however that happens. What finds no room is compressed once more.

The blocks of such a file stay on the disk when it is gone. So a spool for an encrypted image seals what it
keeps, with a key that nobody but the spool has.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from imsd.contract import Buffer
from imsd.formats.writer import Spool

from .cipher import NONCE_BYTES

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

    def spool(self, *, is_secret: bool = False) -> FileSpool:
        """A new one, to be closed by the caller. It makes no file until it is used.

        ``is_secret``: of an encrypted image.
        """
        return FileSpool(self, _Seal() if is_secret else None)

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


class _Seal:
    """AES-256-GCM with a key of its own. Thread-safe."""

    def __init__(self) -> None:
        # Loaded here: it takes megabytes, which a daemon without keys does without.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._key = AESGCM(AESGCM.generate_key(256))

    def close(self, key: int, content: Sequence[Buffer]) -> Sequence[Buffer]:
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._key.encrypt(nonce, b"".join(content), key.to_bytes(8, "little"))

    def open(self, key: int, sealed: bytes) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        try:
            return self._key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], key.to_bytes(8, "little"))
        except InvalidTag:
            return None


class FileSpool(Spool):
    """A file without a name; see `SpoolFolder.spool`."""

    def __init__(self, folder: SpoolFolder, seal: _Seal | None) -> None:
        self._folder = folder
        self._seal = seal
        self._fd = -1
        self._end = 0
        self._is_full = False
        self._places: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def keep(self, key: int, content: Sequence[Buffer]) -> None:
        if self._seal:
            content = self._seal.close(key, content)
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
        if len(content) != size:
            return None
        return self._seal.open(key, content) if self._seal else content

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
