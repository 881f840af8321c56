"""Answers put together from pieces of a disk: bytes, or so many zeros."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import Buffer
from imsd.formats.source import Extent

from .wire import DATA_EXTENT, ZERO_EXTENT, data_head, hole

# What is answered in one go.
PART_BYTES = 512 << 10

# The extents that one answer tells, 8 bytes each.
MAX_EXTENTS = 4096

_ZEROS = memoryview(bytes(PART_BYTES))


def read_chunks(cookie: int, start: int, content: Sequence[Buffer | int], flags: int) -> list[Buffer]:
    """Structured chunks for neighbouring pieces; ``flags``: of the last."""
    out: list[Buffer] = []
    data: list[Buffer] = []
    position = start
    for number, piece in enumerate(content):
        is_last = number + 1 == len(content)
        if isinstance(piece, int):
            out.append(hole(cookie, position, piece, flags if is_last else 0))
            position += piece
            continue
        data.append(piece)
        if is_last or isinstance(content[number + 1], int):
            length = sum(map(len, data))
            begin = position + len(piece) - length
            out += [data_head(cookie, begin, length, flags if is_last else 0), *data]
            data = []
        position += len(piece)
    return out


def plain_pieces(content: Sequence[Buffer | int]) -> list[Buffer]:
    """Pieces of at most `PART_BYTES`, with their zeros."""
    return [_ZEROS[:piece] if isinstance(piece, int) else piece for piece in content]


def status_extents(extents: Sequence[Extent]) -> list[tuple[int, int]]:
    """(length, flags) of each, neighbours that are alike as one."""
    told: list[tuple[int, int]] = []
    for extent in extents:
        flags = ZERO_EXTENT if extent.is_zero else DATA_EXTENT
        if told and told[-1][1] == flags:
            told[-1] = (told[-1][0] + extent.length, flags)
        elif len(told) == MAX_EXTENTS:
            break
        else:
            told.append((extent.length, flags))
    return told
