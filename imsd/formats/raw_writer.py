"""RAW: writing. Zeros leave as zero runs, whether the source knows of them or they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from .data_windows import DataWindows
from .source import BlockSource
from .writer import FormatWriter, Output, Piece, Zeros

# Zeros inside data are looked for in pieces of this size.
GRANULE_BYTES = 64 << 10


class RawWriter(FormatWriter):
    def __init__(self, blocks: BlockSource) -> None:
        self._blocks = blocks
        self._windows = DataWindows(blocks)

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        return self._blocks.size_bytes

    def pieces(self) -> Iterator[Piece]:
        for start, length, is_zero in self._windows.runs():
            yield partial(_zeros, length) if is_zero else partial(self._render, start, length)

    def _render(self, start: int, length: int) -> Sequence[Output]:
        # All of the window at once: a source that lacks bytes is asked for them once.
        buffer = memoryview(bytearray(length))
        self._blocks.read_into(start, buffer)
        return list(_without_zeros(buffer))


def _zeros(length: int) -> Sequence[Output]:
    return [Zeros(length)]


def _without_zeros(data: memoryview) -> Iterator[Output]:
    """``data`` with its granules of zeros as zero runs."""
    whole = len(data) // GRANULE_BYTES * GRANULE_BYTES
    words = np.frombuffer(data[:whole], np.uint64).reshape(-1, GRANULE_BYTES // 8)
    is_data = np.append(words.any(axis=1), True).tolist()  # what is no whole granule is not looked at
    start = 0
    for index in range(1, len(is_data)):
        if is_data[index] != is_data[index - 1]:
            yield _run(data, start, index * GRANULE_BYTES, is_data[index - 1])
            start = index * GRANULE_BYTES
    if start < len(data):
        yield _run(data, start, len(data), is_data[-1])


def _run(data: memoryview, start: int, end: int, is_data: bool) -> Output:
    return data[start:end] if is_data else Zeros(end - start)
