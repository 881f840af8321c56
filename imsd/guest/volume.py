"""Volumes: runs of bytes of a disk, such as the disk, a partition or a logical volume.

Nothing here needs more than the standard library: it all runs in a small child process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


class GuestUnreadable(Exception):
    """A structure inside the disk cannot be read: damaged, unknown, or beyond a limit.

    The one exception that comes out of this package; it never fails an import.
    """


class Volume(ABC):
    """Random access to bytes. ``size_bytes``: 0 or more. ``is_cached``: short reads are remembered."""

    size_bytes: int
    is_cached: bool = False

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes:
        """``length`` bytes (1 or more) from ``offset``, inside the volume."""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``. Raises `GuestUnreadable` beyond the end."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise GuestUnreadable(
                f"bytes {offset} to {offset + length} are outside a volume of {self.size_bytes}"
            )
        return self._read(offset, length) if length else b""


class BytesVolume(Volume):
    """Bytes in memory, for tests and for what was unpacked."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)

    def _read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]


class PartVolume(Volume):
    """``length`` bytes of another volume from ``start``, cut where that one ends."""

    def __init__(self, whole: Volume, start: int, length: int) -> None:
        """Raises `GuestUnreadable` when it would start outside."""
        if not 0 <= start <= whole.size_bytes or length < 0:
            raise GuestUnreadable(f"a part at {start} is outside a volume of {whole.size_bytes}")
        self._whole = whole
        self._start = start
        self.is_cached = whole.is_cached
        self.size_bytes = min(length, whole.size_bytes - start)

    def _read(self, offset: int, length: int) -> bytes:
        return self._whole.read(self._start + offset, length)


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes of a put-together volume: those of ``volume`` from ``offset``."""

    volume: Volume
    offset: int
    length: int


class JoinedVolume(Volume):
    """Pieces of other volumes, one after another: a logical volume."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._starts: list[int] = []
        end = 0
        for piece in pieces:
            self._starts.append(end)
            end += piece.length
        self.size_bytes = end
        self.is_cached = all(piece.volume.is_cached for piece in pieces)

    def _read(self, offset: int, length: int) -> bytes:
        found: list[bytes] = []
        index = bisect_right(self._starts, offset) - 1
        while length:
            piece = self._pieces[index]
            inside = offset - self._starts[index]
            count = min(length, piece.length - inside)
            if count:
                found.append(piece.volume.read(piece.offset + inside, count))
            offset, length, index = offset + count, length - count, index + 1
        return b"".join(found)
