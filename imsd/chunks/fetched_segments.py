"""Bytes of a file that are at hand for a while: the set of segments behind a `FetchedSource`.

A *segment* is a run of bytes that was loaded at once. Each `fetching` block counts as a holder of the
segments it asked for, loaded by itself or by another block (so that two windows that need one table
load it once); a segment goes with its last holder, so what is retained is what is being worked on.

Blocks are entered and left on the event loop; pool threads only read, without a lock: they look at an
immutable snapshot of the set, which the loop replaces.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import ClassVar

from imsd.contract import ByteRange, DataLoss
from imsd.formats.source import FetchedSource, NeedBytes

# One load asks for no more; what is larger is loaded part by part.
MAX_LOAD_BYTES = 32 << 20

# Reading over such a gap costs less than another read, whatever lies around it.
SHORT_GAP_BYTES = 4096


class Segment:
    """Bytes ``start`` to ``end`` of a file; ``content`` is None until they are loaded."""

    __slots__ = ("content", "end", "holders", "settled", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.content: memoryview | None = None
        self.holders = 0
        self.settled = asyncio.Event()  # loaded, or given up


class SegmentSource(FetchedSource):
    """A `FetchedSource` that keeps segments. A subclass says how bytes are loaded: `_load`.

    Ranges with a gap of at most ``coalesce_gap_bytes`` between them are loaded as one; see `merged`.
    """

    coalesce_gap_bytes: ClassVar[int] = 4096

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        # Sorted and without overlap; `_snapshot` is what threads see of it.
        self._segments: list[Segment] = []
        self._snapshot: tuple[list[int], list[Segment]] = ([], [])

    @abstractmethod
    async def _load(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range; ranges are in order, inside the file, at most `MAX_LOAD_BYTES` in all.

        Raises DataLoss, Unavailable.
        """

    @property
    def bytes_at_hand(self) -> int:
        """How many bytes are retained now."""
        return sum(segment.end - segment.start for segment in self._snapshot[1] if segment.content)

    def require(self, ranges: Sequence[ByteRange]) -> None:
        """As `ByteSource.require`; what lies outside the file is left to `read` to refuse.

        When one range is missing, all are asked for: those that another block holds now may be gone at
        the next attempt.
        """
        inside = list(self._inside(ranges))
        if not all(self._is_at_hand(wanted) for wanted in inside):
            raise NeedBytes(self, inside)

    @asynccontextmanager
    async def fetching(self, ranges: Sequence[ByteRange]) -> AsyncIterator[None]:
        held: list[Segment] = []
        try:
            for batch in batches(merged(self._inside(ranges), self.coalesce_gap_bytes)):
                await self._hold(batch, held)
            yield
        finally:
            self._let_go(held)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        position = 0
        for piece in self._pieces(offset, len(buffer)):
            buffer[position : position + len(piece)] = piece
            position += len(piece)

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        pieces = self._pieces(offset, length)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pieces(self, offset: int, length: int) -> list[memoryview]:
        """The bytes as they lie in memory. Raises `NeedBytes`."""
        starts, segments = self._snapshot
        position, end = offset, offset + length
        pieces: list[memoryview] = []
        index = bisect_right(starts, offset) - 1
        while position < end:
            segment = segments[index] if 0 <= index < len(segments) else None
            if segment is None or segment.content is None or not segment.start <= position < segment.end:
                raise NeedBytes(self, [ByteRange(offset, length)])
            piece = segment.content[position - segment.start : end - segment.start]
            pieces.append(piece)
            position += len(piece)
            index += 1
        return pieces

    def _is_at_hand(self, wanted: ByteRange) -> bool:
        starts, segments = self._snapshot
        position = wanted.offset
        index = bisect_right(starts, position) - 1
        while position < wanted.end:
            segment = segments[index] if 0 <= index < len(segments) else None
            if segment is None or segment.content is None or not segment.start <= position < segment.end:
                return False
            position = segment.end
            index += 1
        return True

    def _inside(self, ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
        for wanted in ranges:
            start, end = max(0, wanted.offset), min(wanted.end, self.size_bytes)
            if start < end:
                yield ByteRange(start, end - start)

    async def _hold(self, ranges: Sequence[ByteRange], held: list[Segment]) -> None:
        """Load what nobody has loaded, wait for what others are loading; again when they failed."""
        while True:
            joined, missing = self._plan(ranges)
            for segment in (*joined, *missing):
                segment.holders += 1
                held.append(segment)
            if missing:
                await self._load_segments(missing)
            for segment in joined:
                await segment.settled.wait()
            if all(segment.content is not None for segment in joined):
                return

    def _plan(self, ranges: Sequence[ByteRange]) -> tuple[list[Segment], list[Segment]]:
        """The segments that cover parts of ``ranges``, and new ones for the other parts."""
        starts = [segment.start for segment in self._segments]
        joined: list[Segment] = []
        missing: list[Segment] = []
        for wanted in ranges:
            position = wanted.offset
            index = max(0, bisect_right(starts, position) - 1)
            for segment in islice(self._segments, index, None):
                if segment.start >= wanted.end:
                    break
                if segment.end <= position:
                    continue
                if position < segment.start:
                    missing.append(Segment(position, segment.start))
                joined.append(segment)
                position = segment.end
            if position < wanted.end:
                missing.append(Segment(position, wanted.end))
        return joined, missing

    async def _load_segments(self, segments: list[Segment]) -> None:
        self._replace(sorted([*self._segments, *segments], key=lambda segment: segment.start))
        try:
            ranges = [ByteRange(segment.start, segment.end - segment.start) for segment in segments]
            pieces = await self._load(ranges)
            if [len(piece) for piece in pieces] != [wanted.length for wanted in ranges]:
                raise DataLoss("a store returned fewer bytes than it was asked for")
            for segment, piece in zip(segments, pieces, strict=True):
                segment.content = memoryview(piece)
        finally:
            if any(segment.content is None for segment in segments):
                given_up = set(segments)
                self._replace([segment for segment in self._segments if segment not in given_up])
            for segment in segments:
                segment.settled.set()

    def _let_go(self, held: Iterable[Segment]) -> None:
        for segment in held:
            segment.holders -= 1
        self._replace([segment for segment in self._segments if segment.holders])

    def _replace(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._snapshot = ([segment.start for segment in segments], segments)


def merged(ranges: Iterable[ByteRange], gap_bytes: int) -> list[ByteRange]:
    """``ranges`` in order, those that overlap or have at most ``gap_bytes`` between them as one.

    No more than half of it lies in gaps longer than `SHORT_GAP_BYTES`: what is read is bounded by what is
    asked for.
    """
    result: list[ByteRange] = []
    spare = 0  # by how many bytes the last one has more of what is wanted than of gaps
    for wanted in sorted(ranges, key=lambda wanted: wanted.offset):
        last = result[-1] if result else ByteRange(0, 0)
        gap = wanted.offset - last.end
        if not result or gap > min(gap_bytes, max(spare + wanted.length, SHORT_GAP_BYTES)):
            result.append(wanted)
            spare = wanted.length
        elif wanted.end > last.end:
            result[-1] = ByteRange(last.offset, wanted.end - last.offset)
            spare += wanted.end - max(last.end, wanted.offset) - (gap if gap > SHORT_GAP_BYTES else 0)
    return result


def batches(ranges: Iterable[ByteRange]) -> Iterator[list[ByteRange]]:
    """``ranges`` in lists of at most `MAX_LOAD_BYTES`; a longer range is cut."""
    batch: list[ByteRange] = []
    room = MAX_LOAD_BYTES
    for wanted in ranges:
        position = wanted.offset
        while position < wanted.end:
            length = min(wanted.end - position, room)
            batch.append(ByteRange(position, length))
            position += length
            room -= length
            if not room:
                yield batch
                batch, room = [], MAX_LOAD_BYTES
    if batch:
        yield batch
