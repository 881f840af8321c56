"""Which windows of a disk hold data: found out first, so that nobody walks the empty ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from .source import BlockSource

WINDOW_BYTES = 4 << 20

# One scan: at most a few thousand extents of a stored image.
SCAN_BYTES = 1 << 30

ZERO, DATA = 0, 1


class DataWindows:
    """A disk cut into windows of `WINDOW_BYTES`; a byte of memory a window.

    Windows that were not scanned count as data, so scans only save work. Scans may run in parallel.
    """

    def __init__(self, blocks: BlockSource) -> None:
        self._blocks = blocks
        self._state = bytearray([DATA]) * -(-blocks.size_bytes // WINDOW_BYTES)

    def scans(self) -> Iterator[Callable[[], None]]:
        """Tasks that look at the disk's extents. Each raises `NeedBytes`, `ImageRefused`, DataLoss."""
        for start in range(0, self._blocks.size_bytes, SCAN_BYTES):
            yield partial(self._scan, start, min(SCAN_BYTES, self._blocks.size_bytes - start))

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """(start, length, whether zero) in order: single windows of data, and runs of zero ones joined."""
        index = 0
        while index < len(self._state):
            stop = index + 1
            is_zero = self._state[index] == ZERO
            if is_zero:
                following = self._state.find(DATA, index)
                stop = following if following >= 0 else len(self._state)
            start, end = index * WINDOW_BYTES, min(stop * WINDOW_BYTES, self._blocks.size_bytes)
            yield start, end - start, is_zero
            index = stop

    def data(self) -> Iterator[tuple[int, int]]:
        """(start, length) of each window that may hold data, in order."""
        return ((start, length) for start, length, is_zero in self.runs() if not is_zero)

    def _scan(self, start: int, length: int) -> None:
        extents = self._blocks.extents(start, length)
        state = bytearray(-(-length // WINDOW_BYTES))
        for extent in extents:
            if extent.is_zero:
                continue
            low, high = extent.start - start, extent.end - start
            first, stop = low // WINDOW_BYTES, -(-high // WINDOW_BYTES)
            state[first:stop] = bytes([DATA]) * (stop - first)
        first = start // WINDOW_BYTES
        self._state[first : first + len(state)] = state
