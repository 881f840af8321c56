"""Fields of structures that nobody vouches for: what is not there or out of range raises `GuestUnreadable`.

`Record` for structures of which a few fields are wanted, by offset; `unpack` where all of them are at once.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from .volume import GuestUnreadable

Order = Literal["little", "big"]


class Record:
    """The bytes of one structure, read by offset. ``what`` names it in the message of an error."""

    __slots__ = ("_order", "content", "what")

    def __init__(self, content: bytes, order: Order, what: str) -> None:
        self.content = content
        self._order: Order = order
        self.what = what

    def raw(self, offset: int, length: int) -> bytes:
        """``length`` bytes; never fewer. Raises `GuestUnreadable`."""
        if offset < 0 or length < 0 or offset + length > len(self.content):
            raise GuestUnreadable(f"{self.what} is too short")
        return self.content[offset : offset + length]

    def u8(self, offset: int) -> int:
        return self.raw(offset, 1)[0]

    def u16(self, offset: int) -> int:
        return int.from_bytes(self.raw(offset, 2), self._order)

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.raw(offset, 4), self._order)

    def u64(self, offset: int) -> int:
        return int.from_bytes(self.raw(offset, 8), self._order)

    def within(self, offset: int, length: int) -> Record:
        """A structure inside this one."""
        return Record(self.raw(offset, length), self._order, self.what)

    def text(self, offset: int, length: int) -> str:
        """Up to the first NUL, without blanks around; bytes that are no UTF-8 are replaced."""
        return self.raw(offset, length).split(b"\0", 1)[0].decode("utf-8", "replace").strip()


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
        raise GuestUnreadable(f"{what} is {value}, not {least} to {most}")
    return value


def check_power_of_two(value: int, least: int, most: int, what: str) -> int:
    """As `check_range`, and a power of two."""
    check_range(value, least, most, what)
    if value & (value - 1):
        raise GuestUnreadable(f"{what} is {value}, not a power of two")
    return value


def uuid_text(raw: bytes) -> str:
    """16 bytes as a UUID in network order; empty when they are all zero."""
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) if any(raw) else ""


def guid_text(raw: bytes) -> str:
    """16 bytes as the GUID of a partition: the first three fields are little-endian (UEFI, appendix A)."""
    return uuid_text(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:])
