"""Which parts of a disk are read, in windows, and which are skipped because they are known to be zero."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass

from imsd.formats.source import BlockSource, Extent

from .buffers import WINDOW_BYTES
from .decode_pool import DecodePool
from .tree_digest import LEAF_BYTES

# Extents are asked for in parts of a disk, larger ones where nothing was found: small enough for the
# lists of a finely divided disk, large enough that a few thousand calls cross the largest disk.
MIN_LOOK_BYTES = 64 << 20
MAX_LOOK_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Span:
    """``length`` bytes from ``start``: a window to read, or a run of zeros made of whole leaves."""

    start: int
    length: int
    is_zero: bool

    @property
    def end(self) -> int:
        return self.start + self.length


def plan_spans(blocks: BlockSource, start: int, length: int) -> list[Span]:
    """The spans that cover the range of ``blocks``. Raises what `BlockSource.extents` raises.

    A window ends at a multiple of 64 KiB, unless the range ends before; it is not longer than its
    data, and zeros inside it are read with the data: a window costs more than reading zeros.
    """
    end = start + length
    return list(_spans(_leaf_ranges(blocks.extents(start, length), start, end), start, end))


async def plan_ahead(
    pool: DecodePool, blocks: BlockSource, start: int, stop: int
) -> AsyncGenerator[list[Span], None]:
    """The spans from ``start``, a multiple of 4 KiB, to ``stop``, planned one part ahead.

    Close it if it is not exhausted. Raises what the source raises.
    """
    end, look = min(start // LEAF_BYTES * LEAF_BYTES + MIN_LOOK_BYTES, stop), MIN_LOOK_BYTES
    planning = asyncio.create_task(pool.run(plan_spans, blocks, start, end - start))
    try:
        while True:
            spans = await planning
            if end == stop:
                yield spans
                return
            look = next_look(look, spans)
            start, end = end, min(end + look, stop)
            planning = asyncio.create_task(pool.run(plan_spans, blocks, start, end - start))
            yield spans
    finally:
        planning.cancel()
        await asyncio.gather(planning, return_exceptions=True)


def next_look(previous: int, spans: Iterable[Span]) -> int:
    """How many bytes to plan next, after ``previous`` bytes gave ``spans``."""
    if all(span.is_zero for span in spans):
        return min(2 * previous, MAX_LOOK_BYTES)
    return MIN_LOOK_BYTES


def _leaf_ranges(extents: Iterable[Extent], start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what must be read, cut at leaves; what is left between them is whole leaves."""
    if start % LEAF_BYTES:
        yield start, min(_leaf_floor(start) + LEAF_BYTES, end)
    for extent in extents:
        if not extent.is_zero:
            whole = _leaf_floor(extent.end + LEAF_BYTES - 1)
            yield max(_leaf_floor(extent.start), start), min(whole, end)
    if end % LEAF_BYTES:
        yield max(_leaf_floor(end), start), end


def _spans(ranges: Iterable[tuple[int, int]], start: int, end: int) -> Iterator[Span]:
    window_start = window_end = limit = start
    for range_start, range_end in ranges:
        position = max(range_start, window_end)  # ranges may overlap
        while position < range_end:
            if position >= limit:
                if window_start < window_end:
                    yield Span(window_start, window_end - window_start, False)
                if window_end < position:
                    yield Span(window_end, position - window_end, True)
                window_start = position
                limit = _leaf_floor(position + WINDOW_BYTES)
            position = window_end = min(range_end, limit)
    if window_start < window_end:
        yield Span(window_start, window_end - window_start, False)
    if window_end < end:
        yield Span(window_end, end - window_end, True)


def _leaf_floor(position: int) -> int:
    return position // LEAF_BYTES * LEAF_BYTES
