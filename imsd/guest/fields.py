"""Taking fields out of bytes that nobody vouches for: whatever is outside or too large is refused."""

from __future__ import annotations

import struct
from typing import Any

from .volume import GuestUnreadable


def unpack(layout: struct.Struct, content: bytes, offset: int, what: str) -> tuple[Any, ...]:
    """The fields of a structure at ``offset``. Raises `GuestUnreadable` when it is not all there."""
    if not 0 <= offset <= len(content) - layout.size:
        raise GuestUnreadable(f"{what}: {layout.size} bytes at {offset} of {len(content)}")
    return layout.unpack_from(content, offset)


def cut(content: bytes, offset: int, length: int, what: str) -> bytes:
    """``length`` bytes from ``offset``. Raises `GuestUnreadable` when they are not all there."""
    if length < 0 or not 0 <= offset <= len(content) - length:
        raise GuestUnreadable(f"{what}: {length} bytes at {offset} of {len(content)}")
    return content[offset : offset + length]


def check_range(value: int, least: int, most: int, what: str) -> int:
    """``value``, which a disk claims. Raises `GuestUnreadable` when it is out of range."""
    if not least <= value <= most:
        raise GuestUnreadable(f"{what} is {value}; {least} to {most} are read")
    return value


def check_power_of_two(value: int, least: int, most: int, what: str) -> int:
    """As `check_range`, and a power of two."""
    check_range(value, least, most, what)
    if value & (value - 1):
        raise GuestUnreadable(f"{what} is {value}, not a power of two")
    return value
