"""Numbers and texts out of a structure of the disk; whatever is not there raises `GuestUnreadable`."""

from __future__ import annotations

from typing import Literal

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


def check_range(value: int, least: int, most: int, what: str) -> int:
    """``value`` when ``least <= value <= most``. Raises `GuestUnreadable`."""
    if not least <= value <= most:
        raise GuestUnreadable(f"{what} is {value}, not {least} to {most}")
    return value


def uuid_text(raw: bytes) -> str:
    """16 bytes as a UUID in network order; empty when they are all zero."""
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) if any(raw) else ""


def guid_text(raw: bytes) -> str:
    """16 bytes as the GUID of a partition: the first three fields are little-endian (UEFI, appendix A)."""
    return uuid_text(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:])
