"""In which order a disk was touched first: recorded while it is used, kept for the next time it is.

A boot reads the same parts of a disk in the same order each time. What is recorded is a list of ranges of the
disk, of whole `BLOCK_BYTES`; it belongs to the content of the disk, whatever store it lies in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

BLOCK_BYTES = 128 << 10

# Recording ends with the first of these: so many entries, so many blocks (4 GiB), so long after the first
# touch.
MAX_ENTRIES = 8192
MAX_BLOCKS = 32 << 10
MAX_SECONDS = 600.0

# Traces that are kept when the block server starts, of 128 KiB at most.
MAX_FILES = 1000

_MAGIC = b"imsd-trace-v1\0\0\0"
_ENTRY = struct.Struct("<QQ")
_CHECK_BYTES = 32

# (start, length) in bytes of the disk
Entries = Sequence[tuple[int, int]]


class AccessTrace:
    """Records the first touches of one attachment. ``now``: seconds of a clock that only goes on.

    ``is_kept``: what is kept of the disk is an earlier state of this. ``is_full``: more may have been
    touched than is recorded.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._entries: list[tuple[int, int]] = []
        self._seen: set[int] = set()
        self._began: float | None = None
        self.is_complete = False
        self.is_saved = True
        self.is_kept = False
        self.is_full = False

    @property
    def entries(self) -> Entries:
        return self._entries

    def touch(self, start: int, length: int, now: float) -> None:
        """A client reads this range, 1 byte or more of the disk."""
        if self.is_complete:
            return
        if self._began is None:
            self._began = now
        for block in range(start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES + 1):
            if block not in self._seen:
                self._seen.add(block)
                self._add(block * BLOCK_BYTES)
        self.is_full = len(self._entries) >= MAX_ENTRIES or len(self._seen) >= MAX_BLOCKS
        if self.is_full or now - self._began > MAX_SECONDS:
            self.is_complete = True
            self._seen = set()

    def _add(self, start: int) -> None:
        length = min(BLOCK_BYTES, self._size_bytes - start)
        self.is_saved = False
        if self._entries and sum(self._entries[-1]) == start:
            first, before = self._entries[-1]
            self._entries[-1] = (first, before + length)
        else:
            self._entries.append((start, length))


class TraceFiles:
    """Traces by the digest of the disk, in ``folder``. Methods block; what cannot be read is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, digest: str, size_bytes: int) -> Entries:
        try:
            raw = self._path(digest).read_bytes()
        except OSError:
            return ()
        body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        if not body.startswith(_MAGIC) or blake3(body).digest() != check or (len(body) - 16) % _ENTRY.size:
            return ()
        found = list(_ENTRY.iter_unpack(body[len(_MAGIC) :]))[:MAX_ENTRIES]
        return found if are_entries(found, size_bytes) else ()

    def save(self, digest: str, entries: Entries) -> None:
        """Raises OSError."""
        body = _MAGIC + b"".join(_ENTRY.pack(*entry) for entry in entries)
        path = self._path(digest)
        part = path.with_suffix(".part")
        part.write_bytes(body + blake3(body).digest())
        os.replace(part, path)

    def open(self) -> None:
        """Forget the oldest of very many: there is one for each disk that was ever read here."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = sorted(self._folder.glob("*.trace"), key=lambda path: path.stat().st_mtime)
            for path in ours[:-MAX_FILES]:
                path.unlink()

    def _path(self, digest: str) -> Path:
        return self._folder / f"{blake3(digest.encode()).hexdigest(16)}.trace"


def are_entries(entries: Entries, size_bytes: int) -> bool:
    """Whether all lie on a disk of so many bytes."""
    return all(length > 0 and start >= 0 and start + length <= size_bytes for start, length in entries)
