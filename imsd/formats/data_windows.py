"""Which windows of a disk hold data: found out first, so that nobody walks the empty ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from .source import BlockSource

WINDOW_BYTES = 4 << 20

# One scan: at most a few thousand extents of a stored image.
SCAN_BYTES = 1 << 30

ZERO, DATA = 0, 1


class DataWindows:
    """A disk cut into windows of ``window_bytes`` (a part of `SCAN_BYTES`); a byte of memory a window.

    Windows that were not scanned count as data, so scans only save work. Scans may run in parallel.
    """

    def __init__(self, blocks: BlockSource, window_bytes: int = WINDOW_BYTES) -> None:
        self._blocks = blocks
        self._window_bytes = window_bytes
        self._state = bytearray([DATA]) * -(-blocks.size_bytes // window_bytes)

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
            start = index * self._window_bytes
            end = min(stop * self._window_bytes, self._blocks.size_bytes)
            yield start, end - start, is_zero
            index = stop

    def data(self, most_bytes: int = 0) -> Iterator[tuple[int, int]]:
        """(start, length) of each window that may hold data, in order.

        Neighbours are joined to up to ``most_bytes``, if that is more than a window.
        """
        start = length = 0
        for window_start, window_bytes, is_zero in self.runs():
            if is_zero:
                continue
            if length and (window_start != start + length or length + window_bytes > most_bytes):
                yield start, length
                length = 0
            if not length:
                start = window_start
            length += window_bytes
        if length:
            yield start, length

    def has_data(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        """Which of ``count`` windows from number ``first`` on may hold data."""
        found: npt.NDArray[np.bool_] = np.frombuffer(self._state, np.uint8, count, first) == DATA
        return found

    def data_before(self, number: int) -> int:
        """How many windows before ``number`` may hold data."""
        return self._state.count(DATA, 0, number)

    def data_numbers(self) -> npt.NDArray[np.int64]:
        """The numbers of the windows that may hold data, in order."""
        return np.flatnonzero(np.frombuffer(self._state, np.uint8) == DATA)

    def _scan(self, start: int, length: int) -> None:
        extents = self._blocks.extents(start, length)
        state = bytearray(-(-length // self._window_bytes))
        for extent in extents:
            if extent.is_zero:
                continue
            low, high = extent.start - start, extent.end - start
            first, stop = low // self._window_bytes, -(-high // self._window_bytes)
            state[first:stop] = bytes([DATA]) * (stop - first)
        first = start // self._window_bytes
        self._state[first : first + len(state)] = state
