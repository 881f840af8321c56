"""VMDK with a sparse header: structures, constants and limits; what a header, a footer and a marker may say.

Reference: VMware, Virtual Disk Format 5.0 (and 1.1). All numbers are little-endian, places and sizes are in
sectors of 512 bytes. Nothing here trusts the file: a `Header` that was made has passed every check that
the header alone allows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from imsd.contract import ImageRefused

from .raw import SECTOR_BYTES, check_virtual_size
from .refusals import Refusals

MAGIC = b"KDMV"
OLD_ESX_MAGIC = b"COWD"
SE_SPARSE_MAGIC = struct.pack("<Q", 0xCAFEBABE)

# magic, version, flags, capacity, grain size, descriptor offset, descriptor size, entries a grain table,
# redundant directory, directory, overhead, unclean shutdown, newline detection, compression
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
# lba, bytes of the compressed grain that follows
GRAIN_MARKER = struct.Struct("<QI")
# sectors that follow, 0, kind
MARKER = struct.Struct("<QII")

FLAG_NEWLINE_DETECTION = 1 << 0
FLAG_ZERO_GRAINS = 1 << 2
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
# The lower half of the flags may be ignored by whoever does not know them.
COMPATIBLE_FLAGS = 0xFFFF

NEWLINES = b"\n \r\n"
COMPRESSION_DEFLATE = 1
DIRECTORY_AT_END = 0xFFFF_FFFF_FFFF_FFFF
ZERO_GRAIN = 1
ENTRY_BYTES = 4
TABLE_ENTRIES = 512
TABLE_SECTORS = TABLE_ENTRIES * ENTRY_BYTES // SECTOR_BYTES
# The last three sectors of a file whose directory is at its end: marker, footer, end of stream.
FOOTER_SECTORS = 3

MIN_VERSION, MAX_VERSION = 1, 3
MIN_GRAIN_SECTORS, MAX_GRAIN_SECTORS = 8, 2048  # 4 KiB to 1 MiB; 64 KiB is usual
MAX_DESCRIPTOR_SECTOR = 2048
# Of the room for the descriptor; what is used of it has its own limit.
MAX_DESCRIPTOR_SECTORS = 2048
MAX_DIRECTORY_BYTES = 32 << 20
# Entries of tables have 32 bits: nothing beyond can be pointed to.
MAX_SECTOR = 0xFFFF_FFFF
# A compressed grain may be larger than the grain, as in QEMU at most twice as large.
MAX_PACKED_FACTOR = 2


REFUSALS = Refusals(
    "vmdk",
    repair="copy the file again in binary mode, or write it anew with the program that made it",
    convert="export the disk again as a stream-optimized VMDK, with the program that made it",
)
malformed, truncated = REFUSALS.malformed, REFUSALS.truncated


class MarkerKind(IntEnum):
    END_OF_STREAM = 0
    TABLE = 1
    DIRECTORY = 2
    FOOTER = 3


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was checked. Places and sizes in sectors unless they say bytes."""

    version: int
    capacity: int
    grain_sectors: int
    descriptor_sector: int
    descriptor_sectors: int
    directory_sector: int | None  # None: the footer says
    overhead_sectors: int
    is_compressed: bool  # and has markers
    has_zero_grains: bool
    is_dirty: bool

    @property
    def size_bytes(self) -> int:
        return self.capacity * SECTOR_BYTES

    @property
    def grain_bytes(self) -> int:
        return self.grain_sectors * SECTOR_BYTES

    @property
    def grains(self) -> int:
        return -(-self.capacity // self.grain_sectors)

    @property
    def directory_entries(self) -> int:
        return -(-self.grains // TABLE_ENTRIES)

    @property
    def directory_bytes(self) -> int:
        return self.directory_entries * ENTRY_BYTES

    @property
    def first_data_sector(self) -> int:
        """No grain is before it."""
        return max(self.overhead_sectors, self.descriptor_sector + self.descriptor_sectors)

    @property
    def max_packed_bytes(self) -> int:
        """Of a compressed grain, without its marker."""
        return MAX_PACKED_FACTOR * self.grain_bytes


def parse_header(head: bytes, max_virtual_size_bytes: int) -> Header:
    """The header in the first sector of a file, or in its footer.

    Raises ImageRefused with the reason of the first check that fails.
    """
    if len(head) < SECTOR_BYTES:
        raise truncated(f"it has {len(head)} bytes, less than a header")
    magic, version, flags, capacity, grain, descriptor, descriptor_size, entries, _, directory, *rest = (
        HEADER.unpack_from(head)
    )
    overhead, unclean, newlines, compression = rest
    if magic != MAGIC:
        raise malformed("it does not start with the signature of a sparse extent")
    if not MIN_VERSION <= version <= MAX_VERSION:
        raise unsupported(f"version {version} of sparse VMDK is not known")
    if flags & FLAG_NEWLINE_DETECTION and newlines != NEWLINES:
        raise malformed("its line ends were changed: it was sent as text, by FTP for example")
    is_compressed = _check_flags(flags, compression)
    _check_sizes(capacity, grain, entries, max_virtual_size_bytes)
    _check_places(descriptor, descriptor_size, overhead)
    header = Header(
        version=version,
        capacity=capacity,
        grain_sectors=grain,
        descriptor_sector=descriptor,
        descriptor_sectors=descriptor_size,
        directory_sector=None if directory == DIRECTORY_AT_END else directory,
        overhead_sectors=overhead,
        is_compressed=is_compressed,
        has_zero_grains=bool(flags & FLAG_ZERO_GRAINS),
        is_dirty=bool(unclean),
    )
    _check_directory(header)
    return header


def parse_footer(content: bytes, header: Header, max_virtual_size_bytes: int) -> Header:
    """The last `FOOTER_SECTORS` of a file; returns ``header`` with the place of the directory.

    Raises ImageRefused.
    """
    sectors, size, kind = MARKER.unpack_from(content)
    if (sectors, size, kind) != (1, 0, MarkerKind.FOOTER):
        raise malformed("its header says that a footer ends it, but none does")
    if MARKER.unpack_from(content, 2 * SECTOR_BYTES) != (0, 0, MarkerKind.END_OF_STREAM):
        raise malformed("its footer is not followed by the mark of its end")
    marks = content[:SECTOR_BYTES], content[2 * SECTOR_BYTES : 3 * SECTOR_BYTES]
    if any(any(mark[MARKER.size :]) for mark in marks):
        raise malformed("its footer is marked with other bytes than zeros behind the mark")
    footer = parse_header(content[SECTOR_BYTES : 2 * SECTOR_BYTES], max_virtual_size_bytes)
    if footer.directory_sector is None:
        raise malformed("its footer does not say where the grain directory is")
    if replace(footer, directory_sector=None, is_dirty=header.is_dirty) != header:
        raise malformed("its header and its footer disagree")
    return replace(
        header, directory_sector=footer.directory_sector, is_dirty=header.is_dirty | footer.is_dirty
    )


def unsupported(what: str) -> ImageRefused:
    return ImageRefused(
        what,
        reason="FORMAT_UNSUPPORTED",
        hint="export the disk again as a stream-optimized VMDK, for example with `ovftool` or"
        " `qemu-img convert -O vmdk -o subformat=streamOptimized`",
    )


def elsewhere(what: str) -> ImageRefused:
    """The data is in another file."""
    return ImageRefused(
        f"the vmdk file keeps its data in another file: {what}",
        reason="IMAGE_EXTERNAL_DATA_FILE",
        hint="put the disk into one file, for example with"
        " `qemu-img convert -O vmdk -o subformat=streamOptimized`",
    )


def one_part() -> ImageRefused:
    """The file has the header of a disk and no descriptor."""
    return ImageRefused(
        "the vmdk file has no descriptor: it is one part of a disk in several files",
        reason="IMAGE_EXTERNAL_DATA_FILE",
        hint="convert the whole disk, from the small file that names its parts:"
        " `qemu-img convert -O qcow2 NAME.vmdk NAME.qcow2`",
    )


def _check_flags(flags: int, compression: int) -> bool:
    """Whether grains are compressed."""
    if unknown := flags & ~(COMPATIBLE_FLAGS | FLAG_COMPRESSED | FLAG_MARKERS):
        bits = ", ".join(str(bit) for bit in range(32) if unknown >> bit & 1)
        raise REFUSALS.unknown_feature(f"the features of bits {bits}")
    is_compressed = bool(flags & FLAG_COMPRESSED)
    if compression not in (0, COMPRESSION_DEFLATE):
        raise REFUSALS.unknown_feature(f"compression type {compression}")
    if is_compressed != (compression == COMPRESSION_DEFLATE):
        raise malformed("its compression type and its flags disagree")
    if is_compressed != bool(flags & FLAG_MARKERS):
        raise unsupported("vmdk files have either compressed grains behind markers or neither of both")
    return is_compressed


def _check_sizes(capacity: int, grain: int, entries: int, max_virtual_size_bytes: int) -> None:
    if not capacity:
        raise REFUSALS.empty()
    check_virtual_size(capacity * SECTOR_BYTES, max_virtual_size_bytes)
    REFUSALS.check_power_of_two(grain, MIN_GRAIN_SECTORS, MAX_GRAIN_SECTORS, "its grain size in sectors")
    if entries != TABLE_ENTRIES:
        raise malformed(f"grain tables of {entries} entries instead of {TABLE_ENTRIES}")


def _check_places(descriptor: int, descriptor_sectors: int, overhead: int) -> None:
    if not descriptor or not descriptor_sectors:
        raise one_part()
    if descriptor > MAX_DESCRIPTOR_SECTOR:
        raise malformed(f"its descriptor at sector {descriptor} is beyond {MAX_DESCRIPTOR_SECTOR}")
    if descriptor_sectors > MAX_DESCRIPTOR_SECTORS:
        raise malformed(
            f"its descriptor has {descriptor_sectors} sectors, more than {MAX_DESCRIPTOR_SECTORS}"
        )
    if overhead > MAX_SECTOR:
        raise malformed(f"its grains start at sector {overhead}, beyond {MAX_SECTOR}")


def _check_directory(header: Header) -> None:
    if header.directory_bytes > MAX_DIRECTORY_BYTES:
        raise malformed(
            f"a grain directory of {header.directory_bytes} bytes is longer than {MAX_DIRECTORY_BYTES}"
        )
    place = header.directory_sector
    if place is None:
        if not header.is_compressed:
            raise malformed("only a stream-optimized file has its grain directory at the end")
    elif not 0 < place <= MAX_SECTOR:
        raise malformed(f"its grain directory at sector {place} is outside 1 to {MAX_SECTOR}")
