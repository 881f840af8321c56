"""RAW: writing. Zeros leave as zero runs, whether the source knows of them or they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from .data_windows import DataWindows
from .framed_reads import reading
from .output import only_zeros
from .source import BlockSource
from .writer import FormatWriter, Piece


class RawWriter(FormatWriter):
    """``may_frame``: stored frames may be given out as they are."""

    def __init__(self, blocks: BlockSource, *, may_frame: bool = False) -> None:
        self._blocks = blocks
        self._windows = DataWindows(blocks)
        self._read = reading(blocks, may_frame=may_frame)

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        return self._blocks.size_bytes

    def pieces(self) -> Iterator[Piece]:
        for start, length, is_zero in self._windows.runs():
            if is_zero:
                yield partial(only_zeros, length)
            else:
                yield partial(self._read, start, length)
