"""RAW: writing. Zeros leave as zero runs, whether the source knows of them or they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from .data_windows import DataWindows
from .source import BlockSource
from .writer import FormatWriter, Piece
from .zeros import Output, Zeros


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
            yield partial(_zeros, length) if is_zero else partial(self._blocks.read, start, length)


def _zeros(length: int) -> Sequence[Output]:
    return [Zeros(length)]
