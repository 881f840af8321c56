"""VHD on disk: structures, constants and limits; what footer and header may say.

Reference: "Virtual Hard Disk Image Format Specification" 1.0, Microsoft, 2006. All numbers are big-endian.

A file ends with a footer; a dynamic one also starts with a copy of it. The current size is the disk's size
whoever wrote the file: the geometry, which some programs prefer, is only rounded, and never shrinks a disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from imsd.contract import ByteRange

from .raw import SECTOR_BYTES, check_virtual_size, round_up
from .reader import Finding
from .refusals import Refusals
from .source import ByteSource

COOKIE = b"conectix"
FOOTER_BYTES = 512
OLD_FOOTER_BYTES = 511  # Virtual PC before 2004: the last reserved byte is missing

# cookie, features, version, offset of the dynamic header, time, creator, creator's version, creator's
# system, original size, current size, geometry, type, checksum, UUID, saved state
FOOTER = struct.Struct(">8sIIQI4sI4sQQIII16sB")
FOOTER_CHECKSUM_OFFSET = 64

HEADER_COOKIE = b"cxsparse"
HEADER_BYTES = 1024
# cookie, unused offset, offset of the table, version, entries, block size, checksum
HEADER = struct.Struct(">8sQQIIII")
HEADER_CHECKSUM_OFFSET = 36
PARENT_UUID = slice(40, 56)
PARENT_NAME = slice(64, 576)
PARENT_LOCATORS = slice(576, 768)

VERSION = 0x0001_0000
NO_OFFSET = (1 << 64) - 1
TYPE_FIXED, TYPE_DYNAMIC, TYPE_DIFFERENCING = 2, 3, 4

ENTRY_BYTES = 4
ENTRY_ABSENT = 0xFFFF_FFFF
MIN_BLOCK_BYTES = 512 << 10
MAX_BLOCK_BYTES = 256 << 20
MAX_SIZE_BYTES = 2040 << 30

# The sectors a disk may have and still be described by its geometry.
MAX_GEOMETRY_SECTORS = 65535 * 16 * 255

REFUSALS = Refusals(
    "vhd",
    repair="write it anew with the program it comes from, or with `qemu-img convert -O vpc`",
    convert="copy the disk to a new file with the program it comes from, for example with `Convert-VHD`",
)
malformed, truncated = REFUSALS.malformed, REFUSALS.truncated


@dataclass(frozen=True, slots=True)
class Footer:
    """What counts of a footer with a right checksum; ``length``: 512, or 511 in old files."""

    header_offset: int
    size_bytes: int
    disk_type: int
    version: int
    is_saved_state: bool = field(compare=False)
    length: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Layout:
    """A file that was checked: where its disk's bytes or its table are. Sizes and offsets in bytes."""

    size_bytes: int
    table: DynamicTable | None  # None: a fixed disk, which starts at 0
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class DynamicTable:
    """The block allocation table; ``entries``: those that the disk needs, the table may have more.

    ``header``: where the dynamic disk's header is.
    """

    header: ByteRange
    offset: int
    entries: int
    block_bytes: int

    @property
    def place(self) -> ByteRange:
        return ByteRange(self.offset, ENTRY_BYTES * self.entries)

    @property
    def bitmap_bytes(self) -> int:
        return bitmap_bytes(self.block_bytes)


def bitmap_bytes(block_bytes: int) -> int:
    """Length of the sector bitmap before each block: a bit a sector, whole sectors."""
    return round_up(block_bytes // SECTOR_BYTES // 8, SECTOR_BYTES)


def checksum(content: bytes, place: int) -> int:
    """The complement of the sum of all bytes, those of the checksum at ``place`` left out."""
    return ~(sum(content) - sum(content[place : place + 4])) & 0xFFFF_FFFF


def geometry(size_bytes: int) -> int:
    """Cylinders (16 bits), heads and sectors a track (8 bits each), by the appendix of the specification."""
    sectors = min(size_bytes // SECTOR_BYTES, MAX_GEOMETRY_SECTORS)
    per_track, heads = 17, max(4, -(-(sectors // 17) // 1024))
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
    elif sectors // 31 >= 16 * 1024:
        per_track, heads = 63, 16
    elif heads > 16 or sectors // 17 >= heads * 1024:
        per_track, heads = 31, 16
    return sectors // per_track // heads << 16 | heads << 8 | per_track


def read_layout(source: ByteSource, max_virtual_size_bytes: int) -> Layout:
    """Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`."""
    footer, findings = _footer(source)
    _check_footer(footer, max_virtual_size_bytes)
    if footer.is_saved_state:
        findings += (
            Finding("VHD_SAVED_STATE", "the disk belongs to a machine whose state was saved while it ran"),
        )
    if footer.disk_type == TYPE_FIXED:
        _check_fixed(source, footer)
        return Layout(footer.size_bytes, None, findings)
    return Layout(footer.size_bytes, _dynamic_table(source, footer), findings)


def _footer(source: ByteSource) -> tuple[Footer, tuple[Finding, ...]]:
    """The footer that counts: that of the end, or the copy at the start when only that one is whole."""
    size = source.size_bytes
    if size < OLD_FOOTER_BYTES:
        raise truncated(f"it has {size} bytes, less than a footer")
    # The header of a dynamic disk is nearly always at 512: asked for at once.
    start = ByteRange(0, min(size, FOOTER_BYTES + HEADER_BYTES))
    end = ByteRange(max(0, size - FOOTER_BYTES), min(size, FOOTER_BYTES))
    source.require([start, end])
    copy = _parsed(bytes(source.read(0, min(size, FOOTER_BYTES))))
    tail = bytes(source.read(end.offset, end.length))
    last = _parsed(tail) or _parsed(tail[-OLD_FOOTER_BYTES:])
    return _chosen(last, copy)


def _chosen(last: Footer | None, copy: Footer | None) -> tuple[Footer, tuple[Finding, ...]]:
    """Which of the footers with right checksums counts."""
    if last is None:
        if copy is None:
            raise malformed("neither its footer nor the footer's copy at its start has a right checksum")
        if copy.disk_type == TYPE_FIXED:
            raise truncated("a fixed disk has its footer at the end, where there is none")
        return copy, (_damaged("the footer at the end is damaged or missing: its copy was used"),)
    if copy is None:
        is_missed = last.disk_type == TYPE_DYNAMIC
        what = "the footer's copy at the start is damaged: the footer was used"
        return last, (_damaged(what),) if is_missed else ()
    if last != copy:
        raise malformed("its footer and the footer's copy at its start contradict each other")
    return last, ()


def _damaged(what: str) -> Finding:
    return Finding("VHD_FOOTER_DAMAGED", what)


def _parsed(content: bytes) -> Footer | None:
    if not content.startswith(COOKIE) or len(content) < OLD_FOOTER_BYTES:
        return None
    _, _, version, offset, _, _, _, _, _, size, _, kind, stored, _, saved = FOOTER.unpack_from(content)
    if stored != checksum(content, FOOTER_CHECKSUM_OFFSET):
        return None
    return Footer(offset, size, kind, version, bool(saved), len(content))


def _check_footer(footer: Footer, max_virtual_size_bytes: int) -> None:
    if footer.version >> 16 != VERSION >> 16:
        raise REFUSALS.unsupported(f"version {footer.version:#x}")
    if footer.disk_type == TYPE_DIFFERENCING:
        raise REFUSALS.needs_another_file("it is a differencing disk")
    if footer.disk_type not in (TYPE_FIXED, TYPE_DYNAMIC):
        raise REFUSALS.unknown_feature(f"type {footer.disk_type}")
    if not footer.size_bytes:
        raise REFUSALS.empty()
    if footer.size_bytes % SECTOR_BYTES:
        raise malformed(f"a disk of {footer.size_bytes} bytes does not end with a sector")
    if footer.size_bytes > MAX_SIZE_BYTES:
        raise malformed(f"a disk of {footer.size_bytes} bytes is larger than the {MAX_SIZE_BYTES} of vhd")
    check_virtual_size(footer.size_bytes, max_virtual_size_bytes)


def _check_fixed(source: ByteSource, footer: Footer) -> None:
    """The file is the disk and a footer, nothing more and nothing less."""
    beyond = source.size_bytes - footer.size_bytes
    if beyond < footer.length:
        raise truncated(f"the fixed disk has {footer.size_bytes} bytes, its file only {source.size_bytes}")
    if beyond > footer.length:
        raise malformed(f"the fixed disk has {footer.size_bytes} bytes, its file {source.size_bytes}")


def _dynamic_table(source: ByteSource, footer: Footer) -> DynamicTable:
    place = footer.header_offset
    if place % SECTOR_BYTES or place < FOOTER_BYTES:
        raise malformed(f"the header of the dynamic disk cannot be at {place}")
    if place + HEADER_BYTES > source.size_bytes:
        raise truncated(f"its header ends at {place + HEADER_BYTES}, the file at {source.size_bytes}")
    header = ByteRange(place, HEADER_BYTES)
    source.require([header])
    content = bytes(source.read(*header))
    cookie, _, offset, version, entries, block_bytes, stored = HEADER.unpack_from(content)
    if cookie != HEADER_COOKIE:
        raise malformed(f"there is no header of a dynamic disk at {place}")
    if stored != checksum(content, HEADER_CHECKSUM_OFFSET):
        raise malformed("the checksum of the dynamic disk's header is wrong")
    if version >> 16 != VERSION >> 16:
        raise REFUSALS.unsupported(f"version {version:#x} of the dynamic header")
    if any(any(content[part]) for part in (PARENT_UUID, PARENT_NAME, PARENT_LOCATORS)):
        raise REFUSALS.needs_another_file("it names a parent")
    REFUSALS.check_power_of_two(block_bytes, MIN_BLOCK_BYTES, MAX_BLOCK_BYTES, "its block size in bytes")
    needed = -(-footer.size_bytes // block_bytes)
    if entries < needed:
        raise malformed(f"its table has {entries} entries, the disk needs {needed}")
    if offset % SECTOR_BYTES or offset < FOOTER_BYTES:
        raise malformed(f"the table of blocks cannot be at {offset}")
    table = DynamicTable(header, offset, needed, block_bytes)
    if table.place.end > source.size_bytes:
        raise truncated(f"its table ends at {table.place.end}, the file at {source.size_bytes}")
    return table
