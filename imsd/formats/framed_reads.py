"""The plain bytes of a disk for a writer, as stored frames where whoever takes them can decode them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from .output import Framed, Output, Zeros
from .source import BlockSource, FrameSource

# What travels in one message: longer frames, of records that hardly shrink, are decoded.
MAX_FRAMED_BYTES = 1 << 20

# (start, length) of a disk -> its bytes. Raises as `BlockSource.read`.
Read = Callable[[int, int], Sequence[Output]]


def reading(blocks: BlockSource, *, may_frame: bool) -> Read:
    """How to read ``blocks``; ``may_frame``: frames may be given out as they are."""
    if may_frame and isinstance(blocks, FrameSource):
        return partial(_framed, blocks)
    return blocks.read


def _framed(blocks: FrameSource, start: int, length: int) -> Sequence[Output]:
    """A window with its frames as they are; those that lie in it in part are decoded."""
    outputs: list[Output] = []
    position, end = start, start + length
    for piece in blocks.frames(start, length):
        low, high = max(piece.start, start), min(piece.start + piece.length, end)
        if position < low:
            outputs.append(Zeros(low - position))
        if piece.frame is not None and high - low == piece.length and len(piece.frame) <= MAX_FRAMED_BYTES:
            outputs.append(Framed(piece.length, piece.frame))
        else:
            outputs += blocks.read(low, high - low)
        position = high
    if position < end:
        outputs.append(Zeros(end - position))
    return outputs
