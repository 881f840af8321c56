"""ZVHD and ZVHD2 on disk: pages, records, constants and limits; what a page may say.

Both were published with the tools of a public cloud; what is known of their bytes is in the README of this
folder. All numbers are little-endian. A file is made of pages of 4 KiB; the disk is cut into blocks of
2 MiB, and blocks of zeros are not stored::

    ZVHD    header | records | end page
    ZVHD2   header | records | end page | index | bitmap | footer

Nothing here trusts the file: a `Page` that was made has passed every check that the page alone allows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from imsd.contract import Buffer, ByteRange, ImageRefused

from .raw import SECTOR_BYTES, check_virtual_size, round_up
from .reader import Finding
from .refusals import Refusals
from .source import ByteSource
from .vhd_layout import checksum

ZVHD, ZVHD2 = "zvhd", "zvhd2"
ZVHD_COOKIE, ZVHD2_COOKIE = b"stream\0\0", b"z2strm\0\0"
COOKIES = {ZVHD: ZVHD_COOKIE, ZVHD2: ZVHD2_COOKIE}

PAGE_BYTES = 4096
# What of a header or footer page is used; the checksum is over these bytes.
USED_BYTES = 512
BLOCK_BITS = 21
BLOCK_BYTES = 1 << BLOCK_BITS

# cookie, features, file version, data offset, timestamp, creator, creator version, creator system,
# original size, current size, geometry, type, checksum, UUID, saved, hidden, alignment, format version
HEAD = struct.Struct("<8sIIQI4sIIQQIII16s4B")
CHECKSUM_OFFSET = 64
# block size, blocks, index position, bitmap position, index bytes, bitmap bytes, index segment bytes,
# bitmap segment bytes, index segments, bitmap segments, stored blocks, whether the index covers zero blocks,
# compression
TABLES = struct.Struct("<IIQQIIIIIIIBB")
TABLES_OFFSET = HEAD.size
# magic; then at 32 bytes from it the read-incompatible flags
EXTENSION_OFFSET = 144
EXTENSION_MAGIC = b"OIMSEXT1"
INCOMPATIBLE_OFFSET = 176
INCOMPATIBLE_ENCRYPTED = 1 << 1

FEATURES = 2
FILE_VERSION = 0x0001_0000
NO_OFFSET = 0xFFFF_FFFF_FFFF_FFFF
CREATOR = b"tap\0"
CREATOR_VERSION = 0x0001_0004
KIND = 4
FORMAT_VERSIONS = {ZVHD: 0, ZVHD2: 1}
SHOWN_SIZE_UNIT = 1 << 30

ENTRY_BYTES = 16
SEGMENT_ENTRIES = 32768
INDEX_SEGMENT_BYTES = SEGMENT_ENTRIES * ENTRY_BYTES
BITMAP_SEGMENT_BYTES = SEGMENT_ENTRIES // 8
# Held in memory: of a disk of 256 TiB.
MAX_BITMAP_BYTES = 16 << 20

RECORD_MAGIC = b"hwstream bg\0"
RECORD = struct.Struct("<12sIIB3xI20x")  # magic, payload bytes, block, and two fields that mean nothing
RECORD_END = b"end\0"
# Data that do not shrink grow a little; no writer makes more of a block.
MAX_PAYLOAD_BYTES = 4 << 20

COMPRESSION_ENCRYPTED = 0x81


class Compression(IntEnum):
    """How a block is compressed; the number is that of the page."""

    ZLIB = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Tables:
    """Where a ZVHD2 file says its index and bitmap are; positions and lengths in bytes of the file."""

    index_position: int = 0
    bitmap_position: int = 0
    index_bytes: int = 0
    bitmap_bytes: int = 0
    index_segment_bytes: int = 0
    bitmap_segment_bytes: int = 0
    index_segments: int = 0
    bitmap_segments: int = 0
    stored_blocks: int = 0

    @property
    def records_end(self) -> int:
        """Where the end page starts; valid after `check_tables`."""
        return min(self.index_position, self.bitmap_position) - PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Page:
    """A header or footer page that was checked; ``tables`` of a ZVHD2 footer are checked apart."""

    size_bytes: int
    compression: Compression = Compression.ZLIB
    covers_zero_blocks: bool = False
    tables: Tables = Tables()

    @property
    def blocks(self) -> int:
        return -(-self.size_bytes // BLOCK_BYTES)


def malformed(name: str, what: str) -> ImageRefused:
    return _refusals(name).malformed(what)


def truncated(name: str, what: str) -> ImageRefused:
    return _refusals(name).truncated(what)


def undecodable(name: str, offset: int) -> ImageRefused:
    return malformed(name, f"the record at {offset} cannot be decoded")


def bytes_beyond(name: str) -> Finding:
    """The last block of a file of the format ``name`` holds more than the disk."""
    return Finding(
        "ZVHD_BYTES_BEYOND_DISK",
        f"the last block of the {name} file holds bytes beyond the end of the disk: they are not kept",
    )


def read_last_page(name: str, source: ByteSource, max_virtual_size_bytes: int) -> Page:
    """The last page of a file, once it and the header have been checked.

    Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`.
    """
    end = source.size_bytes - PAGE_BYTES
    if end < 0:
        raise truncated(name, f"it has {source.size_bytes} bytes, less than a header")
    source.require([ByteRange(0, PAGE_BYTES), ByteRange(end, PAGE_BYTES)])
    header = read_page(name, source.read(0, PAGE_BYTES), max_virtual_size_bytes)
    last = bytes(source.read(end, PAGE_BYTES))
    if end < PAGE_BYTES or not last.startswith(COOKIES[name]):
        raise truncated(name, "it ends without its last page")
    if name == ZVHD2 and not _has_tables(last):
        raise truncated(name, "it ends with its end page, without index, bitmap and footer")
    page = read_page(name, last, max_virtual_size_bytes)
    check_same_disk(name, header, page)
    return page


def check_same_disk(name: str, header: Page, last: Page) -> None:
    """Both pages describe the same disk, stored the same way: some readers believe the one, some the other.

    Raises ImageRefused (IMAGE_MALFORMED).
    """
    if (header.size_bytes, header.compression, header.covers_zero_blocks) != (
        last.size_bytes,
        last.compression,
        last.covers_zero_blocks,
    ):
        raise malformed(name, "its first and its last page describe different disks")


def read_page(name: str, page: Buffer, max_virtual_size_bytes: int) -> Page:
    """A header or footer page of the format ``name``; ``page``: its `USED_BYTES` or more.

    Raises ImageRefused with the reason of the first check that fails.
    """
    fields = HEAD.unpack_from(page)
    cookie, _, file_version, *_, size = fields[:9]
    checksum, alignment, format_version = fields[12], fields[16], fields[17]
    if cookie != COOKIES[name]:
        raise malformed(name, "a page lacks the signature of the format")
    if checksum != page_checksum(page):
        raise malformed(name, "the checksum of a header or footer page is wrong")
    if file_version != FILE_VERSION or format_version != FORMAT_VERSIONS[name]:
        raise _refusals(name).unsupported(f"version {file_version:#x}/{format_version}")
    if alignment:
        raise _refusals(name).unknown_feature("records aligned to 64 KiB")
    _check_size(name, size, max_virtual_size_bytes)
    return Page(size) if name == ZVHD else _read_tables(page, size)


def page_checksum(page: Buffer) -> int:
    """One's complement of the sum of the used bytes, those of the checksum left out."""
    return checksum(bytes(page[:USED_BYTES]), CHECKSUM_OFFSET)


def check_tables(page: Page, file_bytes: int) -> None:
    """The tables of a ZVHD2 footer are as long as the disk needs, and where they may be.

    Raises ImageRefused (IMAGE_MALFORMED, IMAGE_TOO_LARGE).
    """
    tables = page.tables
    if tables.stored_blocks > page.blocks:
        raise malformed(ZVHD2, f"it claims {tables.stored_blocks} stored blocks of {page.blocks}")
    entries = page.blocks if page.covers_zero_blocks else tables.stored_blocks
    expected = (segments(entries), segments(page.blocks), INDEX_SEGMENT_BYTES, BITMAP_SEGMENT_BYTES)
    if expected != (
        tables.index_segments,
        tables.bitmap_segments,
        tables.index_segment_bytes,
        tables.bitmap_segment_bytes,
    ):
        raise malformed(ZVHD2, "the segments of its index or bitmap are not those that the disk needs")
    if (tables.index_bytes, tables.bitmap_bytes) != (
        tables.index_segments * INDEX_SEGMENT_BYTES,
        tables.bitmap_segments * BITMAP_SEGMENT_BYTES,
    ):
        raise malformed(ZVHD2, "its index or bitmap is not as long as its segments")
    if tables.bitmap_bytes > MAX_BITMAP_BYTES:
        raise _refusals(ZVHD2).too_large(
            f"a bitmap of {tables.bitmap_bytes} bytes is longer than {MAX_BITMAP_BYTES}"
        )
    _check_places(tables, file_bytes)


def segments(entries: int) -> int:
    """Segments of an index or bitmap of ``entries``."""
    return -(-entries // SEGMENT_ENTRIES)


def record_bytes(payload_bytes: int) -> int:
    """Length of the record of a payload."""
    return round_up(RECORD.size + payload_bytes + len(RECORD_END), PAGE_BYTES)


def read_record_start(name: str, start: Buffer, position: int) -> tuple[int, int]:
    """(payload bytes, block) of the record at ``position``. Raises ImageRefused (IMAGE_MALFORMED)."""
    magic, payload_bytes, block, *_ = RECORD.unpack_from(start)
    if magic != RECORD_MAGIC:
        raise malformed(name, f"no record is at {position}")
    if not 0 < payload_bytes <= MAX_PAYLOAD_BYTES:
        raise malformed(name, f"the record at {position} claims {payload_bytes} bytes")
    return payload_bytes, block


def payload_of(name: str, record: memoryview, position: int) -> memoryview:
    """The payload of a whole record. Raises ImageRefused (IMAGE_MALFORMED)."""
    payload_bytes, _ = read_record_start(name, record, position)
    if len(record) != record_bytes(payload_bytes) or record[-len(RECORD_END) :] != RECORD_END:
        raise malformed(name, f"the record at {position} does not end where it should")
    return record[RECORD.size : RECORD.size + payload_bytes]


def _check_size(name: str, size: int, max_virtual_size_bytes: int) -> None:
    if not size:
        raise _refusals(name).empty()
    check_virtual_size(size, max_virtual_size_bytes)
    if size % SECTOR_BYTES:
        raise malformed(name, f"a disk of {size} bytes is not made of whole sectors")


def _has_tables(page: Buffer) -> bool:
    """Whether a page says where the bitmap is, which only the footer does."""
    return bool(TABLES.unpack_from(page, TABLES_OFFSET)[3])


def _read_tables(page: Buffer, size: int) -> Page:
    block_bytes, blocks, *places, covers_zero_blocks, compression = TABLES.unpack_from(page, TABLES_OFFSET)
    if block_bytes != BLOCK_BYTES:
        raise _refusals(ZVHD2).unsupported(f"a block size of {block_bytes} bytes")
    if blocks != -(-size // BLOCK_BYTES):
        raise malformed(ZVHD2, f"it claims {blocks} blocks, the disk has {-(-size // BLOCK_BYTES)}")
    if covers_zero_blocks > 1:
        raise malformed(ZVHD2, "the kind of its index is not known")
    _check_extension(page)
    if compression == COMPRESSION_ENCRYPTED:
        raise _refusals(ZVHD2).encrypted()
    if compression not in tuple(Compression):
        raise _refusals(ZVHD2).unknown_feature(f"compression {compression}")
    return Page(size, Compression(compression), bool(covers_zero_blocks), Tables(*places))


def _check_extension(page: Buffer) -> None:
    """Refuse what the extension says no reader may pass over; the rest of it is not looked at."""
    if page[EXTENSION_OFFSET : EXTENSION_OFFSET + len(EXTENSION_MAGIC)] != EXTENSION_MAGIC:
        return
    flags = int.from_bytes(page[INCOMPATIBLE_OFFSET : INCOMPATIBLE_OFFSET + 4], "little")
    if flags & INCOMPATIBLE_ENCRYPTED:
        raise _refusals(ZVHD2).encrypted()
    if flags:
        raise _refusals(ZVHD2).unknown_feature(f"extensions of the flags {flags:#x}")


def _check_places(tables: Tables, file_bytes: int) -> None:
    places = (
        (tables.index_position, tables.index_bytes),
        (tables.bitmap_position, tables.bitmap_bytes),
    )
    for position, length in places:
        if position % PAGE_BYTES:
            raise malformed(ZVHD2, f"its index or bitmap at {position} is not at the start of a page")
        if position < 2 * PAGE_BYTES or position + length > file_bytes - PAGE_BYTES:
            raise malformed(ZVHD2, f"its index or bitmap at {position} is outside the file")
    (index, index_bytes), (bitmap, bitmap_bytes) = places
    if index < bitmap + bitmap_bytes and bitmap < index + index_bytes:
        raise malformed(ZVHD2, "its index and bitmap overlap")


def _refusals(name: str) -> Refusals:
    return Refusals(
        name,
        repair="copy the file again from its origin, or export the image anew",
        convert="export the image anew, as qcow2 or raw",
    )
