"""A file with changes laid over it, as if they had been written."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imsd.contract import ByteRange

from .source import ByteSource


class Change(NamedTuple):
    """``content`` written at ``place``, None: zeros."""

    place: ByteRange
    content: bytes | None

    @property
    def end(self) -> int:
        return self.place.end

    def part(self, start: int, end: int) -> bytes:
        """What is written from ``start`` to ``end`` of the file, a part of ``place``."""
        if self.content is None:
            return bytes(end - start)
        return self.content[start - self.place.offset : end - self.place.offset]


class _Piece(NamedTuple):
    """The part of a change that no later one replaced: ``start`` to ``end`` of the file."""

    start: int
    end: int
    change: Change


class OverlaySource(ByteSource):
    """``source`` after ``changes``, in order; ``size_bytes`` long: what lies beyond both reads as zeros."""

    def __init__(self, source: ByteSource, changes: Sequence[Change], size_bytes: int) -> None:
        self._source = source
        self.size_bytes = size_bytes
        self._pieces = _pieces(changes)
        self._ends = [piece.end for piece in self._pieces]

    def require(self, ranges: Sequence[ByteRange]) -> None:
        inside = [
            ByteRange(wanted.offset, min(wanted.end, self._source.size_bytes) - wanted.offset)
            for wanted in ranges
            if wanted.offset < self._source.size_bytes
        ]
        if inside:
            self._source.require(inside)

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        if offset + length <= self._source.size_bytes and not any(self._touching(offset, length)):
            return self._source.read(offset, length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        inside = max(0, min(len(buffer), self._source.size_bytes - offset))
        if inside:
            self._source.read_into(offset, buffer[:inside])
        buffer[inside:] = bytes(len(buffer) - inside)
        for start, end, change in self._touching(offset, len(buffer)):
            low, high = max(start, offset), min(end, offset + len(buffer))
            buffer[low - offset : high - offset] = change.part(low, high)

    def _touching(self, offset: int, length: int) -> Iterator[_Piece]:
        for index in range(bisect_right(self._ends, offset), len(self._pieces)):
            if self._pieces[index].start >= offset + length:
                return
            yield self._pieces[index]


def _pieces(changes: Sequence[Change]) -> list[_Piece]:
    """What is left of each change when all are made, in the order of the file.

    From the last change back: of each, what no later one covers.
    """
    found: list[_Piece] = []
    covered_starts: list[int] = []
    covered_ends: list[int] = []
    for change in reversed(changes):
        start, end = change.place.offset, change.end
        if start == end:
            continue
        first, stop = bisect_left(covered_ends, start), bisect_right(covered_starts, end)
        position = start
        for index in range(first, stop):
            if position < covered_starts[index]:
                found.append(_Piece(position, min(end, covered_starts[index]), change))
            position = max(position, covered_ends[index])
        if position < end:
            found.append(_Piece(position, end, change))
        if first < stop:
            start, end = min(start, covered_starts[first]), max(end, covered_ends[stop - 1])
        covered_starts[first:stop] = [start]
        covered_ends[first:stop] = [end]
    return sorted(found)
