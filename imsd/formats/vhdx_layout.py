"""VHDX on disk: structures, constants and limits; what headers and region tables may say.

Reference: [MS-VHDX]. All numbers are little-endian, checksums are CRC-32C.

::

    identifier | header 1 | header 2 | region table 1 | region table 2 | log, BAT, metadata, blocks
    0            64 KiB     128 KiB    192 KiB          256 KiB          from 1 MiB on, in any order
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

import google_crc32c

from imsd.contract import ByteRange

from .refusals import Refusals
from .source import ByteSource

MIB = 1 << 20
SIGNATURE = b"vhdxfile"
# Everything that a region table or a BAT places is placed in whole MiB, after the header section.
UNIT_BYTES = MIB
HEADER_SECTION_BYTES = MIB

HEADER_OFFSETS = (64 << 10, 128 << 10)
HEADER_BYTES = 4096
# signature, checksum, sequence number, file write, data write and log UUID, log version, version, log length,
# log offset
HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
HEADER_SIGNATURE = b"head"
VERSION = 1
LOG_VERSION = 0

REGION_TABLE_OFFSETS = (192 << 10, 256 << 10)
REGION_TABLE_BYTES = 64 << 10
REGION_TABLE = struct.Struct("<4sIII")  # signature, checksum, entries, reserved
REGION_SIGNATURE = b"regi"
REGION = struct.Struct("<16sQII")  # UUID, offset, length, required
REGION_REQUIRED = 1
MAX_TABLE_ENTRIES = 2047
CHECKSUM = slice(4, 8)

BAT_REGION = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
NO_ID = bytes(16)

MIN_BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 256 << 20
MAX_SIZE_BYTES = 64 << 40
SECTOR_SIZES = (512, 4096)
# Sectors that one sector bitmap block speaks for: so many blocks stand before its entry in the BAT.
CHUNK_SECTORS = 1 << 23

# Where a file may hold anything: a disk of 64 TiB and its tables need far less.
MAX_FILE_BYTES = 128 << 40

BAT_ENTRY_BYTES = 8
BAT_STATE_MASK = 7
BAT_OFFSET_SHIFT = 20
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULLY_PRESENT, PARTIALLY_PRESENT = 0, 1, 2, 3, 6, 7

REFUSALS = Refusals(
    "vhdx",
    repair="write it anew with the program it comes from, or with `qemu-img convert -O vhdx`",
    convert="copy the disk to a new file with the program it comes from, for example with `Convert-VHD`",
)
malformed, truncated = REFUSALS.malformed, REFUSALS.truncated


@dataclass(frozen=True, slots=True)
class Header:
    """The current header. ``log_id``: `NO_ID` when there is nothing to replay."""

    log_id: bytes
    log: ByteRange


@dataclass(frozen=True, slots=True)
class Regions:
    """Where BAT and metadata are."""

    bat: ByteRange
    metadata: ByteRange


def crc(content: bytes) -> int:
    """CRC-32C of ``content`` with zeros in place of its own `CHECKSUM`."""
    start = google_crc32c.value(content[: CHECKSUM.start] + bytes(4))
    return int(google_crc32c.extend(start, content[CHECKSUM.stop :]))


def read_header(source: ByteSource) -> Header:
    """The newest valid header. Raises ImageRefused, `NeedBytes`."""
    if source.size_bytes < HEADER_SECTION_BYTES:
        raise truncated(f"it has {source.size_bytes} bytes, less than its header section")
    headers = [ByteRange(offset, HEADER_BYTES) for offset in HEADER_OFFSETS]
    tables = [ByteRange(offset, REGION_TABLE_BYTES) for offset in REGION_TABLE_OFFSETS]
    source.require([*headers, *tables])  # the tables are what is read next
    contents = [_checked(source, place, HEADER_SIGNATURE) for place in headers]
    valid = [(HEADER.unpack_from(content)[2], content) for content in contents if content is not None]
    if not valid:
        raise malformed("neither of its headers has a right checksum")
    _, content = max(valid)
    if len(valid) == 2 and valid[0][0] == valid[1][0] and valid[0][1] != valid[1][1]:
        raise malformed("its headers have the same sequence number and contradict each other")
    _, _, _, _, _, log_id, log_version, version, length, offset = HEADER.unpack_from(content)
    if version != VERSION:
        raise REFUSALS.unsupported(f"version {version}")
    if log_version != LOG_VERSION and log_id != NO_ID:
        raise REFUSALS.unknown_feature(f"version {log_version} of the log")
    _check_place("log", offset, length, source.size_bytes)
    return Header(log_id, ByteRange(offset, length))


def read_regions(source: ByteSource, header: Header) -> Regions:
    """The regions of the first valid table. Raises ImageRefused, `NeedBytes`."""
    places = [ByteRange(offset, REGION_TABLE_BYTES) for offset in REGION_TABLE_OFFSETS]
    source.require(places)
    contents = [_checked(source, place, REGION_SIGNATURE) for place in places]
    tables = [list(_region_entries(content)) for content in contents if content is not None]
    if not tables:
        raise malformed("neither of its region tables has a right checksum")
    if tables[0] != tables[-1]:
        raise malformed("its region tables contradict each other")
    known: dict[bytes, ByteRange] = {}
    for identity, offset, length, flags in tables[0]:
        if identity not in (BAT_REGION, METADATA_REGION) and flags & REGION_REQUIRED:
            raise REFUSALS.unknown_feature(f"region {UUID(bytes_le=identity)}")
        if identity in known:
            raise malformed(f"it has region {UUID(bytes_le=identity)} twice")
        _check_place("region", offset, length, source.size_bytes)
        known[identity] = ByteRange(offset, length)
    _check_apart([header.log, *known.values()])
    if BAT_REGION not in known or METADATA_REGION not in known:
        raise malformed("it has no BAT or no metadata")
    return Regions(known[BAT_REGION], known[METADATA_REGION])


def _region_entries(content: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """(UUID, offset, length, flags) of a region table with a right checksum."""
    _, _, entries, _ = REGION_TABLE.unpack_from(content)
    if entries > MAX_TABLE_ENTRIES:
        raise malformed(f"a region table has {entries} entries, more than {MAX_TABLE_ENTRIES}")
    for number in range(entries):
        yield REGION.unpack_from(content, REGION_TABLE.size + number * REGION.size)


def _checked(source: ByteSource, place: ByteRange, signature: bytes) -> bytes | None:
    """What is at ``place``, None when its signature or its checksum is wrong."""
    content = bytes(source.read(place.offset, place.length))
    is_right = content.startswith(signature) and int.from_bytes(content[CHECKSUM], "little") == crc(content)
    return content if is_right else None


def _check_place(what: str, offset: int, length: int, file_bytes: int) -> None:
    if offset % UNIT_BYTES or length % UNIT_BYTES or offset < HEADER_SECTION_BYTES or not length:
        raise malformed(f"a {what} of {length} bytes at {offset} is not in whole MiB after the headers")
    if offset + length > file_bytes:
        raise truncated(f"a {what} ends at {offset + length}, the file at {file_bytes}")


def _check_apart(places: Iterable[ByteRange]) -> None:
    for before, after in pairwise(sorted(places)):
        if after.offset < before.end:
            raise malformed(f"two of its regions overlap at {after.offset}")
