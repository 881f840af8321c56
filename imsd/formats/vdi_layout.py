"""VDI on disk: the header, constants and limits; what a header may say.

Reference: `Storage/VDICore.h` of VirtualBox 7 for the fields and kinds, `block/vdi.c` of QEMU for what it
accepts. All numbers are little-endian. A `Header` that was made has passed every check that the header
alone allows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from imsd.contract import ByteRange

from .raw import SECTOR_BYTES, check_virtual_size, round_up
from .refusals import Refusals
from .source import ByteSource

SIGNATURE = struct.pack("<I", 0xBEDA107F)
VERSION = 0x0001_0001

# text, signature, version | header size, kind, flags, comment | map offset, data offset, cylinders, heads,
# sectors, sector size, unused | disk size, block size, extra bytes a block, blocks, allocated blocks |
# UUIDs: of the file, of its last change, of the file below, of that one's last change
HEADER = struct.Struct("<64s4sIIII256sIIIIIIIQIIII16s16s16s16s")
HEADER_BYTES = 512
# The header counts its own length from here; up to the UUIDs it is so long.
COUNTED_FROM, MIN_COUNTED_BYTES = 0x48, 0x180

ENTRY_BYTES = 4
# An entry of the map from here on is no block: the block is absent, or zero.
ENTRY_ZERO, ENTRY_ABSENT = 0xFFFF_FFFE, 0xFFFF_FFFF

BLOCK_BYTES = 1 << 20  # what every program writes unless told otherwise
# VirtualBox takes every power of 2; a larger or smaller one was never seen.
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 4 << 10, 256 << 20
# Enough for 64 TiB in blocks of 1 MiB, a map of 256 MiB; it is read in pages.
MAX_BLOCKS = 64 << 20

REFUSALS = Refusals(
    "vdi",
    repair="copy it again from its origin, or write it anew with `VBoxManage clonemedium`",
    convert="copy the disk to a new file with `VBoxManage clonemedium`",
)


class Kind(IntEnum):
    """What a file is; the number is that of the header."""

    DYNAMIC = 1
    STATIC = 2
    UNDO = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was checked. Sizes and offsets in bytes."""

    kind: Kind  # DYNAMIC or STATIC
    size_bytes: int  # as written: not always whole sectors
    block_bytes: int
    blocks: int  # the map may have more than the disk needs
    map_offset: int
    data_offset: int

    @property
    def virtual_size_bytes(self) -> int:
        return round_up(self.size_bytes, SECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class Fields:
    """The header as it is written."""

    text: bytes
    signature: bytes
    version: int
    header_bytes: int
    kind: int
    flags: int
    comment: bytes
    map_offset: int
    data_offset: int
    cylinders: int
    heads: int
    sectors: int
    sector_bytes: int
    unused: int
    size: int
    block_bytes: int
    block_extra_bytes: int
    blocks: int
    allocated_blocks: int
    identity: bytes
    change_identity: bytes
    link: bytes
    parent_change: bytes


def read_header(source: ByteSource, max_virtual_size_bytes: int) -> Header:
    """Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`."""
    if source.size_bytes < HEADER_BYTES:
        raise REFUSALS.truncated(f"it has {source.size_bytes} bytes, less than a header")
    source.require([ByteRange(0, HEADER_BYTES)])
    fields = Fields(*HEADER.unpack_from(source.read(0, HEADER_BYTES)))
    _check_kind(fields)
    _check_sizes(fields, max_virtual_size_bytes)
    _check_places(fields, source.size_bytes)
    return Header(
        kind=Kind(fields.kind),
        size_bytes=fields.size,
        block_bytes=fields.block_bytes,
        blocks=fields.blocks,
        map_offset=fields.map_offset,
        data_offset=fields.data_offset,
    )


def _check_kind(fields: Fields) -> None:
    if fields.signature != SIGNATURE:
        raise REFUSALS.malformed("it does not have the vdi signature")
    if fields.version != VERSION:
        raise REFUSALS.unsupported(f"version {fields.version >> 16}.{fields.version & 0xFFFF}")
    if fields.kind in (Kind.UNDO, Kind.DIFFERENCING):
        raise REFUSALS.needs_another_file("it holds the differences to another disk")
    if any(fields.link) or any(fields.parent_change):
        raise REFUSALS.needs_another_file("it names the UUID of another disk")
    if fields.kind not in (Kind.DYNAMIC, Kind.STATIC):
        raise REFUSALS.unknown_feature(f"kind {fields.kind} of file")
    if fields.block_extra_bytes:
        raise REFUSALS.unknown_feature(f"{fields.block_extra_bytes} extra bytes before each block")


def _check_sizes(fields: Fields, max_virtual_size_bytes: int) -> None:
    if not fields.size:
        raise REFUSALS.empty()
    check_virtual_size(fields.size, max_virtual_size_bytes)
    block_bytes = fields.block_bytes
    REFUSALS.check_power_of_two(block_bytes, MIN_BLOCK_BYTES, MAX_BLOCK_BYTES, "its block size in bytes")
    if fields.sector_bytes != SECTOR_BYTES:
        raise REFUSALS.malformed(f"sectors of {fields.sector_bytes} bytes")
    needed = -(-fields.size // block_bytes)
    if not needed <= fields.blocks <= MAX_BLOCKS:
        raise REFUSALS.malformed(
            f"a map of {fields.blocks} blocks, the disk needs {needed}, at most {MAX_BLOCKS} are accepted"
        )


def _check_places(fields: Fields, file_bytes: int) -> None:
    map_end = fields.map_offset + fields.blocks * ENTRY_BYTES
    if fields.map_offset % SECTOR_BYTES or fields.data_offset % SECTOR_BYTES:
        raise REFUSALS.malformed("its map or its blocks are not at the start of a sector")
    if fields.header_bytes < MIN_COUNTED_BYTES:
        raise REFUSALS.malformed(f"a header of {fields.header_bytes} bytes is too short")
    if fields.map_offset < max(HEADER_BYTES, COUNTED_FROM + fields.header_bytes):
        raise REFUSALS.malformed(f"its map at {fields.map_offset} overlaps the header")
    if map_end > fields.data_offset:
        raise REFUSALS.malformed(f"its map ends at {map_end}, its blocks start at {fields.data_offset}")
    if fields.data_offset > file_bytes:
        raise REFUSALS.truncated(f"its blocks start at {fields.data_offset}, the file ends at {file_bytes}")
