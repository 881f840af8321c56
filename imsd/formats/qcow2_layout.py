"""QCOW2 on disk: structures, constants and limits; what a header may say.

Reference: docs/interop/qcow2.txt of QEMU. All numbers are big-endian. Nothing here trusts the file: a
`Header` that was made has passed every check that the header alone allows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from imsd.contract import ByteRange, ImageRefused

from .raw import SECTOR_BYTES, check_virtual_size, round_up
from .refusals import Refusals
from .source import ByteSource

MAGIC = b"QFI\xfb"

# magic, version, backing offset, backing length, cluster bits, size, crypt method, L1 entries, L1 offset,
# refcount table offset, refcount table clusters, snapshots, snapshot table offset
HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
# incompatible, compatible, autoclear features, refcount order, header length
HEADER_V3 = struct.Struct(">QQQII")
HEADER_V2_BYTES = 72
HEADER_V3_BYTES = 104
COMPRESSION_TYPE_OFFSET = 104
EXTENSION = struct.Struct(">II")  # type, length of what follows, padded to 8 bytes

INCOMPATIBLE_DIRTY = 1 << 0
INCOMPATIBLE_CORRUPT = 1 << 1
INCOMPATIBLE_DATA_FILE = 1 << 2
INCOMPATIBLE_COMPRESSION = 1 << 3
INCOMPATIBLE_EXTENDED_L2 = 1 << 4
INCOMPATIBLE_KNOWN = 0x1F

EXTENSION_END = 0
EXTENSION_DATA_FILE = 0x44415441
EXTENSION_BITMAPS = 0x23852875
EXTENSION_ENCRYPTION = 0x0537BE77

# Bits 9 to 55 of an L1 entry or of a standard L2 entry: where the table or cluster is.
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
FLAG_COPIED = 1 << 63
FLAG_COMPRESSED = 1 << 62
FLAG_ZERO = 1 << 0
SUBCLUSTERS = 32

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MIN_EXTENDED_CLUSTER_BITS = 14
MAX_REFCOUNT_ORDER = 6
MAX_L1_BYTES = 32 << 20  # as in QEMU
MAX_SNAPSHOTS = 256
# The header and its extensions; QEMU writes less than 1 KiB.
MAX_HEADER_BYTES = 64 << 10

REFUSALS = Refusals(
    "qcow2",
    repair="look at it with `qemu-img check`, or write it anew with `qemu-img convert -O qcow2`",
    convert="copy the disk to a new file with `qemu-img convert -O qcow2`",
)
malformed, truncated = REFUSALS.malformed, REFUSALS.truncated


class Compression(IntEnum):
    """How compressed clusters are compressed; the number is that of the header."""

    ZLIB = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was checked. Sizes and offsets in bytes."""

    version: int
    cluster_bits: int
    size_bytes: int  # as written: not always whole sectors
    l1_offset: int
    l1_entries: int  # those that the disk needs; the table may have more
    compression: Compression
    has_extended_l2: bool
    is_dirty: bool
    snapshots: int
    has_bitmaps: bool

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def virtual_size_bytes(self) -> int:
        return round_up(self.size_bytes, SECTOR_BYTES)

    @property
    def clusters(self) -> int:
        return -(-self.size_bytes // self.cluster_bytes)

    @property
    def l2_entries(self) -> int:
        return self.cluster_bytes // (16 if self.has_extended_l2 else 8)


@dataclass(frozen=True, slots=True)
class _Fields:
    """The header as it is written."""

    version: int
    backing_offset: int
    backing_bytes: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    snapshots: int
    incompatible: int
    refcount_order: int
    header_bytes: int
    compression: int


def read_header(source: ByteSource, max_virtual_size_bytes: int) -> Header:
    """Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`."""
    length = min(source.size_bytes, MAX_HEADER_BYTES)
    if length:
        source.require([ByteRange(0, length)])
    head = bytes(source.read(0, length))
    fields = _fields(head)
    extensions = dict(_extensions(head, fields))
    _check_references(fields, extensions)
    _check_features(fields)
    _check_sizes(fields, max_virtual_size_bytes)
    return Header(
        version=fields.version,
        cluster_bits=fields.cluster_bits,
        size_bytes=fields.size,
        l1_offset=fields.l1_offset,
        l1_entries=_check_l1(fields, source.size_bytes),
        compression=_compression(fields),
        has_extended_l2=bool(fields.incompatible & INCOMPATIBLE_EXTENDED_L2),
        is_dirty=bool(fields.incompatible & INCOMPATIBLE_DIRTY),
        snapshots=fields.snapshots,
        has_bitmaps=EXTENSION_BITMAPS in extensions,
    )


def _fields(head: bytes) -> _Fields:
    if len(head) < HEADER_V2_BYTES:
        raise truncated(f"it has {len(head)} bytes, less than a header")
    magic, version, *rest = HEADER_V2.unpack_from(head)
    if magic != MAGIC:
        raise malformed("it does not start with the qcow2 signature")
    if version not in (2, 3):
        raise REFUSALS.unsupported(f"version {version}")
    backing_offset, backing_bytes, cluster_bits, size, crypt, l1_entries, l1_offset, _, _, snapshots, _ = rest
    incompatible, refcount_order, header_bytes, compression = 0, 4, HEADER_V2_BYTES, 0
    if version == 3:
        if len(head) < HEADER_V3_BYTES:
            raise truncated(f"it has {len(head)} bytes, less than a header")
        incompatible, _, _, refcount_order, header_bytes = HEADER_V3.unpack_from(head, HEADER_V2_BYTES)
        if header_bytes > COMPRESSION_TYPE_OFFSET and len(head) > COMPRESSION_TYPE_OFFSET:
            compression = head[COMPRESSION_TYPE_OFFSET]
    return _Fields(
        version=version,
        backing_offset=backing_offset,
        backing_bytes=backing_bytes,
        cluster_bits=cluster_bits,
        size=size,
        crypt_method=crypt,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        snapshots=snapshots,
        incompatible=incompatible,
        refcount_order=refcount_order,
        header_bytes=header_bytes,
        compression=compression,
    )


def _extensions(head: bytes, fields: _Fields) -> Iterator[tuple[int, int]]:
    """(type, length) of the header's extensions."""
    if not MIN_CLUSTER_BITS <= fields.cluster_bits <= MAX_CLUSTER_BITS:
        raise malformed(f"clusters of 2^{fields.cluster_bits} bytes are outside 2^9 to 2^21")
    least = HEADER_V2_BYTES if fields.version == 2 else HEADER_V3_BYTES
    area = head[: 1 << fields.cluster_bits]
    if not least <= fields.header_bytes <= len(area):
        raise malformed(f"a header of {fields.header_bytes} bytes is outside {least} to {len(area)}")
    position = fields.header_bytes
    while position + EXTENSION.size <= len(area):
        kind, length = EXTENSION.unpack_from(area, position)
        if kind == EXTENSION_END:
            return
        position += EXTENSION.size
        if length > len(area) - position:
            raise malformed("a header extension is longer than the header's cluster")
        yield kind, length
        position = round_up(position + length, 8)


def _check_references(fields: _Fields, extensions: dict[int, int]) -> None:
    """A file that names another file is refused, whatever the name."""
    if fields.backing_offset or fields.backing_bytes:
        raise REFUSALS.needs_another_file("it names a backing file")
    if fields.incompatible & INCOMPATIBLE_DATA_FILE or EXTENSION_DATA_FILE in extensions:
        raise ImageRefused(
            "the qcow2 file keeps its data in another file",
            reason="IMAGE_EXTERNAL_DATA_FILE",
            hint="merge both into one file with `qemu-img convert -O qcow2`",
        )
    if fields.crypt_method or EXTENSION_ENCRYPTION in extensions:
        raise REFUSALS.encrypted()


def _check_features(fields: _Fields) -> None:
    if fields.incompatible & INCOMPATIBLE_CORRUPT:
        raise ImageRefused(
            "the qcow2 file is marked corrupt",
            reason="IMAGE_MARKED_CORRUPT",
            hint="repair it with `qemu-img check -r all` and look at what was lost",
        )
    if unknown := fields.incompatible & ~INCOMPATIBLE_KNOWN:
        bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
        raise REFUSALS.unknown_feature(f"feature bits {bits}")
    if fields.refcount_order > MAX_REFCOUNT_ORDER:
        raise malformed(f"refcounts of 2^{fields.refcount_order} bits")
    has_extended_l2 = fields.incompatible & INCOMPATIBLE_EXTENDED_L2
    if has_extended_l2 and fields.cluster_bits < MIN_EXTENDED_CLUSTER_BITS:
        raise malformed(f"clusters of 2^{fields.cluster_bits} bytes cannot have subclusters")
    if fields.snapshots > MAX_SNAPSHOTS:
        raise ImageRefused(
            f"the qcow2 file claims {fields.snapshots} internal snapshots, more than {MAX_SNAPSHOTS}",
            reason="IMAGE_TOO_MANY_SNAPSHOTS",
            hint="drop the snapshots with `qemu-img convert -O qcow2`",
        )


def _compression(fields: _Fields) -> Compression:
    is_flagged = bool(fields.incompatible & INCOMPATIBLE_COMPRESSION)
    if is_flagged != bool(fields.compression):
        raise malformed("its compression type and its feature bits disagree")
    try:
        return Compression(fields.compression)
    except ValueError:
        raise REFUSALS.unknown_feature(f"compression type {fields.compression}") from None


def _check_sizes(fields: _Fields, max_virtual_size_bytes: int) -> None:
    if not fields.size:
        raise REFUSALS.empty()
    check_virtual_size(fields.size, max_virtual_size_bytes)
    if fields.l1_entries > MAX_L1_BYTES // 8:
        raise malformed(f"an L1 table of {fields.l1_entries} entries is longer than {MAX_L1_BYTES} bytes")


def _check_l1(fields: _Fields, file_bytes: int) -> int:
    """How many entries of the L1 table the disk needs; they are all inside the file."""
    cluster_bytes = 1 << fields.cluster_bits
    entry_bytes = 16 if fields.incompatible & INCOMPATIBLE_EXTENDED_L2 else 8
    needed = -(-fields.size // (cluster_bytes * (cluster_bytes // entry_bytes)))
    if fields.l1_entries < needed:
        raise malformed(f"its L1 table has {fields.l1_entries} entries, the disk needs {needed}")
    if fields.l1_offset % cluster_bytes or not fields.l1_offset:
        raise malformed(f"its L1 table at {fields.l1_offset} is not at the start of a cluster")
    if fields.l1_offset + 8 * needed > file_bytes:
        raise truncated(f"its L1 table ends at {fields.l1_offset + 8 * needed}, the file at {file_bytes}")
    return needed
