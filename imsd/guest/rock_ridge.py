"""What Rock Ridge keeps in records of ISO 9660: names, modes, targets of links.

References: IEEE P1281 (SUSP 1.12: SP, CE, ST), IEEE P1282 (RRIP 1.12: NM, PX, SL).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from .file_system import MAX_LINK_BYTES, MAX_NAME_BYTES
from .record import Record, check_range
from .volume import GuestUnreadable, Volume

# An entry: two letters, its length at 2, its version at 3, what it says from 4.
HEADER_BYTES = 4
MAX_ENTRIES = 64
MAX_CONTINUATIONS = 8
MAX_CONTINUATION_BYTES = 2048

CONTINUES, IS_CURRENT, IS_PARENT, IS_ROOT = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class UnixRecord:
    """``name`` is None and ``mode`` 0 when Rock Ridge says nothing about them."""

    name: bytes | None
    mode: int
    target: bytes

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode) or bool(self.target)


def bytes_to_skip(system_use: bytes) -> int | None:
    """How many bytes come before the entries of every record, by the record of the root.

    None when that record does not announce Rock Ridge.
    """
    is_announced = len(system_use) >= 7 and system_use[:2] == b"SP" and system_use[4:6] == b"\xbe\xef"
    return system_use[6] if is_announced else None


def read_unix_record(volume: Volume, system_use: bytes, block_bytes: int) -> UnixRecord:
    """What the entries of one record say. Raises `GuestUnreadable`."""
    name: bytes | None = None
    mode = 0
    link = _Link()
    for kind, content in _entries(volume, system_use, block_bytes):
        if kind == b"NM" and not content:
            raise GuestUnreadable("a name of Rock Ridge is too short")
        if kind == b"NM" and not content[0] & (IS_CURRENT | IS_PARENT):
            name = (name or b"") + content[1:]
            check_range(len(name), 0, MAX_NAME_BYTES, "the length of a name")
        elif kind == b"PX":
            mode = int.from_bytes(content[:4], "little")
        elif kind == b"SL":
            link.add(content[1:])
    return UnixRecord(name, mode, link.target())


def _entries(volume: Volume, area: bytes, block_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    following: tuple[int, int] | None = None
    place = continuations = 0
    for _ in range(MAX_ENTRIES):
        length = area[place + 2] if place + HEADER_BYTES <= len(area) else 0
        if length < HEADER_BYTES:
            if following is None:
                return
            continuations += 1
            if continuations > MAX_CONTINUATIONS:
                break
            area, place, following = volume.read(*following), 0, None
            continue
        kind, content = area[place : place + 2], area[place + HEADER_BYTES : place + length]
        place += length
        if place > len(area):
            raise GuestUnreadable("a record of Rock Ridge is cut off")
        if kind == b"ST":
            place = len(area)
        elif kind == b"CE":
            following = _continuation(content, block_bytes)
        else:
            yield kind, content
    raise GuestUnreadable("a record of Rock Ridge that goes on for ever")


def _continuation(content: bytes, block_bytes: int) -> tuple[int, int]:
    """Offset and length of where a record goes on."""
    record = Record(content, "little", "a continuation of Rock Ridge")
    length = check_range(record.u32(16), 1, MAX_CONTINUATION_BYTES, "the length of a continuation")
    return record.u32(0) * block_bytes + record.u32(8), length


class _Link:
    """Puts a target together from its components."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [b""]
        self._is_absolute = False
        self._goes_on = False
        self._length = 0

    def add(self, content: bytes) -> None:
        """The components of one entry: flags, length, text."""
        place = 0
        while place + 2 <= len(content):
            flags, length = content[place], content[place + 1]
            text = content[place + 2 : place + 2 + length]
            place += 2 + length
            self._length += len(text) + 1
            check_range(self._length, 0, MAX_LINK_BYTES, "the length of a link")
            if flags & IS_ROOT:
                self._is_absolute = True
                continue
            text = b"." if flags & IS_CURRENT else b".." if flags & IS_PARENT else text
            if self._goes_on:
                self._parts[-1] += text
            else:
                self._parts.append(text)
            self._goes_on = bool(flags & CONTINUES)

    def target(self) -> bytes:
        path = b"/".join(self._parts[1:])
        return b"/" + path if self._is_absolute else path
