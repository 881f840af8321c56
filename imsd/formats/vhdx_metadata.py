"""VHDX: the metadata region, which says what the disk is.

Reference: [MS-VHDX] 2.6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from imsd.contract import ByteRange

from .raw import check_virtual_size
from .source import ByteSource
from .vhdx_layout import (
    BAT_ENTRY_BYTES,
    CHUNK_SECTORS,
    MAX_BLOCK_BYTES,
    MAX_SIZE_BYTES,
    MAX_TABLE_ENTRIES,
    MIN_BLOCK_BYTES,
    REFUSALS,
    SECTOR_SIZES,
    Regions,
    malformed,
)

TABLE_BYTES = 64 << 10
TABLE = struct.Struct("<8sHH20s")  # signature, reserved, entries, reserved
TABLE_SIGNATURE = b"metadata"
ITEM = struct.Struct("<16sIIII")  # UUID, offset in the region, length, flags, reserved
ITEM_IS_VIRTUAL_DISK = 2
ITEM_IS_REQUIRED = 4
# Items nearly always follow the table: read with it.
ITEMS_BYTES = 4096
MAX_ITEM_BYTES = 1 << 20

FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le  # block size, flags
VIRTUAL_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
VIRTUAL_DISK_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746").bytes_le
LOGICAL_SECTOR = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
PHYSICAL_SECTOR = UUID("cda348c7-445d-4471-9cc9-e9885251c556").bytes_le
PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le

# The items that a file must have, and their lengths.
ITEM_BYTES = {FILE_PARAMETERS: 8, VIRTUAL_SIZE: 8, VIRTUAL_DISK_ID: 16, LOGICAL_SECTOR: 4, PHYSICAL_SECTOR: 4}

LEAVE_BLOCKS_ALLOCATED = 1
HAS_PARENT = 2
KNOWN_PARAMETERS = LEAVE_BLOCKS_ALLOCATED | HAS_PARENT


@dataclass(frozen=True, slots=True)
class Disk:
    """What the metadata say, checked. Sizes in bytes."""

    size_bytes: int
    block_bytes: int
    logical_sector_bytes: int
    is_fixed: bool = False

    @property
    def blocks(self) -> int:
        return -(-self.size_bytes // self.block_bytes)

    @property
    def chunk_ratio(self) -> int:
        """Blocks whose entries stand in the BAT between two entries of sector bitmaps."""
        return CHUNK_SECTORS * self.logical_sector_bytes // self.block_bytes

    @property
    def bat_entries(self) -> int:
        return self.blocks + (self.blocks - 1) // self.chunk_ratio


def read_disk(source: ByteSource, regions: Regions, max_virtual_size_bytes: int) -> Disk:
    """Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`."""
    places = _item_places(source, regions.metadata)
    missing = [identity for identity in ITEM_BYTES if identity not in places]
    if PARENT_LOCATOR in places:
        raise REFUSALS.needs_another_file("its metadata name a parent")
    if missing:
        raise malformed(f"its metadata lack item {UUID(bytes_le=missing[0])}")
    source.require(list(places.values()))
    items = {identity: bytes(source.read(*place)) for identity, place in places.items()}
    block_bytes, flags = struct.unpack("<II", items[FILE_PARAMETERS])
    if flags & HAS_PARENT:
        raise REFUSALS.needs_another_file("it says that it has a parent")
    if flags & ~KNOWN_PARAMETERS:
        raise REFUSALS.unknown_feature(f"flags {flags:#x} of the file")
    (size,) = struct.unpack("<Q", items[VIRTUAL_SIZE])
    (logical,) = struct.unpack("<I", items[LOGICAL_SECTOR])
    (physical,) = struct.unpack("<I", items[PHYSICAL_SECTOR])
    disk = Disk(size, block_bytes, logical, bool(flags & LEAVE_BLOCKS_ALLOCATED))
    _check_sectors(logical, physical)
    _check_size(disk, max_virtual_size_bytes)
    if disk.bat_entries * BAT_ENTRY_BYTES > regions.bat.length:
        raise malformed(f"its BAT has {regions.bat.length} bytes, the disk needs {disk.bat_entries} entries")
    return disk


def _item_places(source: ByteSource, region: ByteRange) -> dict[bytes, ByteRange]:
    """Where in the file the known items are, by UUID."""
    source.require([ByteRange(region.offset, min(region.length, TABLE_BYTES + ITEMS_BYTES))])
    table = bytes(source.read(region.offset, TABLE_BYTES))
    signature, _, entries, _ = TABLE.unpack_from(table)
    if signature != TABLE_SIGNATURE:
        raise malformed("its metadata do not start with their signature")
    if entries > MAX_TABLE_ENTRIES:
        raise malformed(f"its metadata have {entries} entries, more than {MAX_TABLE_ENTRIES}")
    places: dict[bytes, ByteRange] = {}
    for number in range(entries):
        identity, offset, length, flags, _ = ITEM.unpack_from(table, TABLE.size + number * ITEM.size)
        _check_item(offset, length, region)
        if identity not in (*ITEM_BYTES, PARENT_LOCATOR):
            if flags & ITEM_IS_REQUIRED:
                raise REFUSALS.unknown_feature(f"metadata {UUID(bytes_le=identity)}")
            continue
        if identity in places:
            raise malformed(f"its metadata have item {UUID(bytes_le=identity)} twice")
        if length != ITEM_BYTES.get(identity, length):
            raise malformed(f"item {UUID(bytes_le=identity)} of its metadata has {length} bytes")
        places[identity] = ByteRange(region.offset + offset, length)
    return places


def _check_item(offset: int, length: int, region: ByteRange) -> None:
    if length > MAX_ITEM_BYTES or (length and offset < TABLE_BYTES) or offset + length > region.length:
        raise malformed(f"an item of {length} bytes at {offset} of its metadata is outside of them")


def _check_sectors(logical: int, physical: int) -> None:
    if logical not in SECTOR_SIZES or physical not in SECTOR_SIZES:
        raise malformed(f"sectors of {logical} and {physical} bytes are not 512 or 4096")


def _check_size(disk: Disk, max_virtual_size_bytes: int) -> None:
    REFUSALS.check_power_of_two(disk.block_bytes, MIN_BLOCK_BYTES, MAX_BLOCK_BYTES, "its block size in bytes")
    if not disk.size_bytes:
        raise REFUSALS.empty()
    check_virtual_size(disk.size_bytes, min(max_virtual_size_bytes, MAX_SIZE_BYTES))
    if disk.size_bytes % disk.logical_sector_bytes:
        raise malformed(f"a disk of {disk.size_bytes} bytes does not end with a sector")
