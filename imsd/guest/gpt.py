"""The GUID partition table: header, entries, and their copies at the end of the disk.

Reference: UEFI 2.10, 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from .record import Record, check_range, guid_text
from .volume import GuestUnreadable, Volume

SECTOR_SIZES = (512, 4096)

# In the header: its size at 12, its checksum at 16, its own sector at 24, the entries' first sector at 72,
# their count at 80, the size of one at 84, their checksum at 88.
SIGNATURE = b"EFI PART"
CHECKSUM_OFFSET = 16
LEAST_HEADER_BYTES = 92
LEAST_ENTRY_BYTES = 128
MAX_ENTRY_BYTES = 4096
MAX_ENTRIES = 1024
MAX_TABLE_BYTES = 1 << 20
MAX_PARTITIONS = 64

# In an entry: type at 0, its own GUID at 16, first sector at 32, last one at 40, attributes at 48, name in
# UTF-16 at 56.
NAME_OFFSET = 56
NAME_BYTES = 72
BIOS_BOOTABLE = 1 << 2


@dataclass(frozen=True, slots=True)
class GptEntry:
    """One partition, in bytes of the disk. ``type_guid`` and its own ``guid`` in lower case."""

    number: int
    start: int
    length: int
    type_guid: str
    name: str
    is_bios_bootable: bool
    guid: str


@dataclass(frozen=True, slots=True)
class Gpt:
    """``is_backup``: the first table is damaged, this is the one at the end of the disk.

    ``is_cut``: there are more partitions than `MAX_PARTITIONS`.
    """

    sector_bytes: int
    entries: tuple[GptEntry, ...]
    is_backup: bool
    is_cut: bool


def has_gpt_signature(disk: Volume) -> bool:
    """Whether a first header is where it belongs, be it whole or not."""
    return any(
        disk.size_bytes >= 2 * sector and disk.read(sector, len(SIGNATURE)) == SIGNATURE
        for sector in SECTOR_SIZES
    )


def read_gpt(disk: Volume) -> Gpt:
    """The first table that is whole: at the start of the disk, else at its end. Raises `GuestUnreadable`."""
    problem = GuestUnreadable("the disk has no GUID partition table")
    for is_backup in (False, True):
        for sector in SECTOR_SIZES:
            place = disk.size_bytes // sector - 1 if is_backup else 1
            try:
                return _read_table(disk, sector, place, is_backup)
            except GuestUnreadable as damaged:
                problem = damaged
    raise problem


def _read_table(disk: Volume, sector: int, place: int, is_backup: bool) -> Gpt:
    header = Record(disk.read(place * sector, sector), "little", "a GUID partition table")
    if header.raw(0, len(SIGNATURE)) != SIGNATURE:
        raise GuestUnreadable("the header of a GUID partition table is missing")
    size = check_range(header.u32(12), LEAST_HEADER_BYTES, sector, "the size of a partition table's header")
    covered = bytearray(header.raw(0, size))
    covered[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 4] = bytes(4)
    if crc32(covered) != header.u32(CHECKSUM_OFFSET) or header.u64(24) != place:
        raise GuestUnreadable("the header of a GUID partition table is damaged")
    count = check_range(header.u32(80), 1, MAX_ENTRIES, "the number of entries of a partition table")
    width = check_range(header.u32(84), LEAST_ENTRY_BYTES, MAX_ENTRY_BYTES, "the size of a partition's entry")
    check_range(count * width, 1, MAX_TABLE_BYTES, "the size of a partition table")
    table = Record(disk.read(header.u64(72) * sector, count * width), "little", "a GUID partition table")
    if crc32(table.content) != header.u32(88):
        raise GuestUnreadable("the entries of a GUID partition table are damaged")
    entries = tuple(_used(table, count, width, sector))
    return Gpt(sector, entries[:MAX_PARTITIONS], is_backup, len(entries) > MAX_PARTITIONS)


def _used(table: Record, count: int, width: int, sector: int) -> Iterator[GptEntry]:
    for index in range(count):
        entry = table.within(index * width, width)
        first, last = entry.u64(32), entry.u64(40)
        if any(entry.raw(0, 16)) and first <= last:
            name = entry.raw(NAME_OFFSET, NAME_BYTES).decode("utf-16-le", "replace").split("\0", 1)[0]
            yield GptEntry(
                index + 1,
                first * sector,
                (last - first + 1) * sector,
                guid_text(entry.raw(0, 16)),
                name,
                bool(entry.u64(48) & BIOS_BOOTABLE),
                guid_text(entry.raw(16, 16)),
            )
