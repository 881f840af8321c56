"""The partition table in the master boot record, and the chain of logical partitions.

Reference: UEFI 2.10, 5.2 (legacy and protective MBR); extended partitions as fdisk and the Linux kernel
(block/partitions/msdos.c) read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .record import Record
from .volume import Volume

SECTOR_BYTES = 512

# 440 bytes of code; a number of the disk; four entries of 16 bytes from 446; 55 AA at the end.
CODE_BYTES = 440
DISK_NUMBER_OFFSET = 440
ENTRIES_OFFSET = 446
ENTRY_BYTES = 16
SIGNATURE_OFFSET = 510
SIGNATURE = b"\x55\xaa"

# In an entry: status at 0, type at 4, first sector at 8, sectors at 12.
ACTIVE = 0x80
STATUSES = (0, ACTIVE)
EXTENDED_TYPES = (0x05, 0x0F, 0x85)
PROTECTIVE_TYPE = 0xEE

FIRST_LOGICAL_NUMBER = 5
MAX_LOGICAL_PARTITIONS = 60


@dataclass(frozen=True, slots=True)
class MbrEntry:
    """One partition, in bytes of the disk. ``number`` as Linux counts: logical ones from 5."""

    number: int
    start: int
    length: int
    type_number: int
    is_active: bool


@dataclass(frozen=True, slots=True)
class Mbr:
    """The primary entries, the logical ones, and whether their chain ended as it should.

    ``disk_number``: 0 when the disk has none.
    """

    has_boot_code: bool
    primary: tuple[MbrEntry, ...]
    logical: tuple[MbrEntry, ...]
    is_chain_whole: bool
    disk_number: int

    @property
    def is_protective(self) -> bool:
        """Whether it says that the disk has a GUID partition table."""
        return any(entry.type_number == PROTECTIVE_TYPE for entry in self.primary)


def read_mbr(disk: Volume) -> Mbr | None:
    """The table in the first sector; None when there is none. Raises `GuestUnreadable` if bytes are missing.

    The boot sector of a file system ends like a master boot record. What tells them apart is that all four
    entries of a table are plausible: nothing but a flag as status, and one of them starts inside the disk.
    """
    if disk.size_bytes < SECTOR_BYTES:
        return None
    sector = Record(disk.read(0, SECTOR_BYTES), "little", "the master boot record")
    entries = _entries(sector, 0)
    if entries is None or (entries and min(entry.start for entry in entries) >= disk.size_bytes):
        return None
    chain = _Chain(disk)
    for entry in entries:
        if entry.type_number in EXTENDED_TYPES:
            chain.follow(entry)
    has_boot_code = any(sector.raw(0, CODE_BYTES))
    if not entries and not has_boot_code:
        return None
    number = sector.u32(DISK_NUMBER_OFFSET)
    return Mbr(has_boot_code, tuple(entries), tuple(chain.found), chain.is_whole, number)


class _Chain:
    """Walks the extended partitions: each table has one logical partition and a link to the next table."""

    def __init__(self, disk: Volume) -> None:
        self._disk = disk
        self.found: list[MbrEntry] = []
        self.is_whole = True

    def follow(self, extended: MbrEntry) -> None:
        place: int | None = extended.start
        seen: set[int] = set()
        while place is not None:
            if place in seen or len(self.found) >= MAX_LOGICAL_PARTITIONS:
                self.is_whole = False
                return
            seen.add(place)
            place = self._table(place, extended)

    def _table(self, place: int, extended: MbrEntry) -> int | None:
        """Adds the logical partition of the table at ``place``; where the next table is."""
        if place + SECTOR_BYTES > self._disk.size_bytes:
            self.is_whole = False
            return None
        sector = Record(self._disk.read(place, SECTOR_BYTES), "little", "an extended boot record")
        entries = _entries(sector, place)
        if entries is None:
            self.is_whole = False
            return None
        following = None
        for entry in entries[:2]:
            if entry.type_number in EXTENDED_TYPES:
                following = entry.start - place + extended.start
            elif entry.start < self._disk.size_bytes:
                self.found.append(_numbered(entry, FIRST_LOGICAL_NUMBER + len(self.found)))
            else:
                self.is_whole = False
        return following


def _numbered(entry: MbrEntry, number: int) -> MbrEntry:
    return MbrEntry(number, entry.start, entry.length, entry.type_number, entry.is_active)


def _entries(sector: Record, place: int) -> list[MbrEntry] | None:
    """The used entries of a table that lies at ``place``; None when it is no table."""
    if sector.raw(SIGNATURE_OFFSET, 2) != SIGNATURE:
        return None
    slots = [sector.within(ENTRIES_OFFSET + index * ENTRY_BYTES, ENTRY_BYTES) for index in range(4)]
    if any(slot.u8(0) not in STATUSES for slot in slots):
        return None
    return list(_used(slots, place))


def _used(slots: list[Record], place: int) -> Iterator[MbrEntry]:
    for index, slot in enumerate(slots):
        start, count = slot.u32(8) * SECTOR_BYTES, slot.u32(12) * SECTOR_BYTES
        if slot.u8(4) and start and count:
            yield MbrEntry(index + 1, place + start, count, slot.u8(4), slot.u8(0) == ACTIVE)
