"""Where the chunks of a disk are, looked up a region at a time and remembered."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from imsd.chunks.manifest_reader import StoredChunk

# What is looked up at once, and how many of these are remembered: with chunks of average length that is
# 27 KiB each.
REGION_BYTES = 8 << 20
REGIONS_KEPT = 128

# The chunks that touch a range (start, length), in order.
LookUp = Callable[[int, int], Awaitable[Sequence[StoredChunk]]]


class _Region(NamedTuple):
    """The chunks that touch a part of a disk, in order, and where they begin and end."""

    starts: list[int]
    ends: list[int]
    chunks: Sequence[StoredChunk]


class ChunkPlaces:
    """Of one disk. ``look_up`` may fail, and is called again when somebody asks again."""

    def __init__(self, size_bytes: int, look_up: LookUp) -> None:
        self._size_bytes = size_bytes
        self._look_up = look_up
        self._regions: OrderedDict[int, _Region] = OrderedDict()
        self._asked: dict[int, asyncio.Task[None]] = {}

    @property
    def asked(self) -> Collection[asyncio.Task[None]]:
        """Regions that are being looked up."""
        return self._asked.values()

    def are_known(self, start: int, length: int) -> bool:
        return all(number in self._regions for number in _numbers(start, length))

    def ask(self, start: int, length: int) -> list[asyncio.Task[None]]:
        """Look up what of the range is not known; none: all is. A task raises what the look-up raises."""
        asked = []
        for number in _numbers(start, length):
            if number in self._regions:
                self._regions.move_to_end(number)
            else:
                if number not in self._asked:
                    self._asked[number] = task = asyncio.ensure_future(self._learn(number))
                    task.add_done_callback(_retrieved)
                asked.append(self._asked[number])
        return asked

    def chunks(self, start: int, length: int) -> Iterable[StoredChunk]:
        """Those that touch the range, which is known."""
        end = start + length
        seen = -1
        for number in _numbers(start, length):
            region = self._regions[number]
            for index in range(bisect_right(region.ends, start), bisect_left(region.starts, end)):
                chunk = region.chunks[index]
                if chunk.start > seen:  # one that crosses a border is in both regions
                    seen = chunk.start
                    yield chunk

    async def _learn(self, number: int) -> None:
        start = number * REGION_BYTES
        try:
            found = await self._look_up(start, min(REGION_BYTES, self._size_bytes - start))
            starts, ends = [chunk.start for chunk in found], [chunk.end for chunk in found]
            self._regions[number] = _Region(starts, ends, found)
            while len(self._regions) > REGIONS_KEPT:
                self._regions.popitem(last=False)
        finally:
            del self._asked[number]


def _numbers(start: int, length: int) -> range:
    """The regions that a range touches."""
    return range(start // REGION_BYTES, (start + length - 1) // REGION_BYTES + 1)


def _retrieved(task: asyncio.Task[None]) -> None:
    """Nobody may wait for it: its error is in the counters."""
    if not task.cancelled():
        task.exception()
