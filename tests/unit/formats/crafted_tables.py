"""What files made by hand have in common: blocks of all kinds of bytes, and tables in two levels."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence


def some_bytes(chosen: random.Random, length: int) -> bytes:
    """Zeros, a pattern, or bytes of which half do not compress."""
    kind = chosen.randrange(3)
    if kind == 0:
        return bytes(length)
    if kind == 1:
        return (chosen.randbytes(64) * -(-length // 64))[:length]
    return chosen.randbytes(length // 2).ljust(length, b"a")


def padded(content: bytes, unit: int) -> bytes:
    """``content``, with zeros up to a multiple of ``unit`` bytes."""
    return content + bytes(-len(content) % unit)


def split_entries(entries: Sequence[int], per_table: int) -> Iterator[list[int] | None]:
    """Each second-level table, filled up with 0; None for one that needs not be there."""
    for first in range(0, len(entries), per_table):
        table = list(entries[first : first + per_table])
        yield [*table, *[0] * (per_table - len(table))] if any(table) else None


def packed(entries: Sequence[int], order: str) -> bytes:
    """``entries`` of 8 bytes; ``order``: ``<`` or ``>``."""
    return struct.pack(f"{order}{len(entries)}Q", *entries)
