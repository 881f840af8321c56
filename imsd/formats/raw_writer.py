"""RAW: writing. Zeros leave as zero runs, whether the source knows of them or they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from .data_windows import DataWindows
from .output import Framed, Output, Zeros
from .source import BlockSource, FrameSource
from .writer import FormatWriter, Piece


class RawWriter(FormatWriter):
    """``may_frame``: stored frames may be given out as they are."""

    def __init__(self, blocks: BlockSource, *, may_frame: bool = False) -> None:
        self._blocks = blocks
        self._windows = DataWindows(blocks)
        self._frames = blocks if may_frame and isinstance(blocks, FrameSource) else None

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        return self._blocks.size_bytes

    def pieces(self) -> Iterator[Piece]:
        for start, length, is_zero in self._windows.runs():
            if is_zero:
                yield partial(_zeros, length)
            elif self._frames:
                yield partial(_framed, self._frames, start, length)
            else:
                yield partial(self._blocks.read, start, length)


def _zeros(length: int) -> Sequence[Output]:
    return [Zeros(length)]


def _framed(blocks: FrameSource, start: int, length: int) -> Sequence[Output]:
    """A window with its frames as they are; those that lie in it in part are decoded."""
    outputs: list[Output] = []
    position, end = start, start + length
    for piece in blocks.frames(start, length):
        low, high = max(piece.start, start), min(piece.start + piece.length, end)
        if position < low:
            outputs.append(Zeros(low - position))
        if piece.frame is not None and high - low == piece.length:
            outputs.append(Framed(piece.length, piece.frame))
        else:
            outputs += blocks.read(low, high - low)
        position = high
    if position < end:
        outputs.append(Zeros(end - position))
    return outputs
