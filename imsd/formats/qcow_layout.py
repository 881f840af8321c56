"""QCOW version 1 on disk: the header, constants and limits; what a header may say.

Reference: "The QCOW Image Format" by M. McLoughlin (2006), its part on version 1, and `block/qcow.c` of QEMU
for the limits. All numbers are big-endian. A `Header` that was made has passed every check that the header
alone allows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imsd.contract import ByteRange

from .qcow2_layout import MAGIC
from .raw import SECTOR_BYTES, check_virtual_size, round_up
from .refusals import Refusals
from .source import ByteSource

# magic, version, backing offset, backing length, mtime, size, cluster bits, L2 bits, crypt method, L1 offset
HEADER = struct.Struct(">4sIQIIQBBxxIQ")
VERSION = 1

ENTRY_BYTES = 8
FLAG_COMPRESSED = 1 << 63

# Those of QEMU.
MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 16
MIN_L2_BITS, MAX_L2_BITS = 6, 13
# Enough for 64 TiB in what QEMU writes (clusters of 4 KiB, tables of 512 entries); it is read in pages.
MAX_L1_BYTES = 256 << 20

REFUSALS = Refusals(
    "qcow",
    repair="copy it again from its origin, or write it anew with `qemu-img convert`",
    convert="copy the disk to a new file with `qemu-img convert -O qcow2`",
)


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was checked. Sizes and offsets in bytes."""

    cluster_bits: int
    l2_bits: int
    size_bytes: int  # as written: not always whole sectors
    l1_offset: int

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def virtual_size_bytes(self) -> int:
        return round_up(self.size_bytes, SECTOR_BYTES)

    @property
    def l2_entries(self) -> int:
        return 1 << self.l2_bits

    @property
    def l1_entries(self) -> int:
        return -(-self.size_bytes // (self.cluster_bytes * self.l2_entries))


def read_header(source: ByteSource, max_virtual_size_bytes: int) -> Header:
    """Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`."""
    if source.size_bytes < HEADER.size:
        raise REFUSALS.truncated(f"it has {source.size_bytes} bytes, less than a header")
    source.require([ByteRange(0, HEADER.size)])
    fields = HEADER.unpack(source.read(0, HEADER.size))
    magic, version, backing_offset, backing_bytes, _, size, cluster_bits, l2_bits, crypt, l1_offset = fields
    if magic != MAGIC:
        raise REFUSALS.malformed("it does not start with the qcow signature")
    if version != VERSION:
        raise REFUSALS.unsupported(f"version {version}")
    if backing_offset or backing_bytes:
        raise REFUSALS.needs_another_file("it names a backing file")
    if crypt:
        raise REFUSALS.encrypted()
    if not size:
        raise REFUSALS.empty()
    check_virtual_size(size, max_virtual_size_bytes)
    _check_bits("clusters", "bytes", cluster_bits, MIN_CLUSTER_BITS, MAX_CLUSTER_BITS)
    _check_bits("L2 tables", "entries", l2_bits, MIN_L2_BITS, MAX_L2_BITS)
    header = Header(cluster_bits, l2_bits, size, l1_offset)
    _check_l1(header, source.size_bytes)
    return header


def _check_bits(what: str, unit: str, bits: int, least: int, most: int) -> None:
    if not least <= bits <= most:
        raise REFUSALS.malformed(f"{what} of 2^{bits} {unit} are outside 2^{least} to 2^{most}")


def _check_l1(header: Header, file_bytes: int) -> None:
    length = header.l1_entries * ENTRY_BYTES
    end = header.l1_offset + length
    if length > MAX_L1_BYTES:
        raise REFUSALS.too_large(f"the disk needs an L1 table of {length} bytes, more than {MAX_L1_BYTES}")
    if header.l1_offset < HEADER.size:
        raise REFUSALS.malformed(f"its L1 table at {header.l1_offset} overlaps the header")
    if end > file_bytes:
        raise REFUSALS.truncated(f"its L1 table ends at {end}, the file at {file_bytes}")
