"""QED on disk: the header, constants and limits; what a header may say.

Reference: `docs/interop/qed_spec.txt` of QEMU. All numbers are little-endian. A `Header` that was made has
passed every check that the header alone allows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imsd.contract import ByteRange

from .raw import SECTOR_BYTES, check_virtual_size
from .refusals import Refusals
from .source import ByteSource

MAGIC = b"QED\0"

# magic, cluster size, table clusters, header clusters, incompatible, compatible, autoclear features,
# L1 offset, size, backing offset, backing length
HEADER = struct.Struct("<4sIIIQQQQQII")

FEATURE_BACKING_FILE = 1 << 0
FEATURE_NEED_CHECK = 1 << 1
FEATURE_BACKING_RAW = 1 << 2
FEATURES_KNOWN = FEATURE_BACKING_FILE | FEATURE_NEED_CHECK | FEATURE_BACKING_RAW

ENTRY_BYTES = 8
# An entry of an L2 table that is no offset, as 0 is, which is an absent cluster.
ENTRY_ZERO = 1

# Those of the reference.
MIN_CLUSTER_BYTES, MAX_CLUSTER_BYTES = 4 << 10, 64 << 20
MAX_TABLE_CLUSTERS = 16
# The header itself has 64 bytes; clusters beyond the first hold nothing but the name of a backing file.
MAX_HEADER_CLUSTERS = 16

REFUSALS = Refusals(
    "qed",
    repair="look at it with `qemu-img check`, or copy it again from its origin",
    convert="copy the disk to a new file with `qemu-img convert -O qcow2`",
)


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was checked. Sizes and offsets in bytes."""

    cluster_bytes: int
    table_bytes: int
    header_bytes: int
    l1_offset: int
    size_bytes: int
    needs_check: bool

    @property
    def table_entries(self) -> int:
        return self.table_bytes // ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class _Fields:
    """The header as it is written."""

    magic: bytes
    cluster_bytes: int
    table_clusters: int
    header_clusters: int
    incompatible: int
    compatible: int
    autoclear: int
    l1_offset: int
    size: int
    backing_offset: int
    backing_bytes: int


def read_header(source: ByteSource, max_virtual_size_bytes: int) -> Header:
    """Raises ImageRefused with the reason of the first check that fails, and `NeedBytes`."""
    if source.size_bytes < HEADER.size:
        raise REFUSALS.truncated(f"it has {source.size_bytes} bytes, less than a header")
    source.require([ByteRange(0, HEADER.size)])
    fields = _Fields(*HEADER.unpack(source.read(0, HEADER.size)))
    if fields.magic != MAGIC:
        raise REFUSALS.malformed("it does not start with the qed signature")
    _check_features(fields)
    _check_units(fields)
    header = Header(
        cluster_bytes=fields.cluster_bytes,
        table_bytes=fields.cluster_bytes * fields.table_clusters,
        header_bytes=fields.cluster_bytes * fields.header_clusters,
        l1_offset=fields.l1_offset,
        size_bytes=fields.size,
        needs_check=bool(fields.incompatible & FEATURE_NEED_CHECK),
    )
    _check_size(header, max_virtual_size_bytes)
    check_table(header, header.l1_offset, source.size_bytes)
    return header


def check_table(header: Header, offset: int, file_bytes: int) -> None:
    """Raises ImageRefused if no table can be at ``offset``."""
    if offset % header.cluster_bytes:
        raise REFUSALS.malformed(f"a table at {offset} is not at the start of a cluster")
    if offset < header.header_bytes:
        raise REFUSALS.malformed(f"a table at {offset} overlaps the header")
    if offset + header.table_bytes > file_bytes:
        raise REFUSALS.truncated(f"a table ends at {offset + header.table_bytes}, the file at {file_bytes}")


def _check_features(fields: _Fields) -> None:
    if fields.incompatible & FEATURE_BACKING_FILE or fields.backing_bytes:
        raise REFUSALS.needs_another_file("it names a backing file")
    if unknown := fields.incompatible & ~FEATURES_KNOWN:
        bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
        raise REFUSALS.unknown_feature(f"feature bits {bits}")


def _check_units(fields: _Fields) -> None:
    REFUSALS.check_power_of_two(
        fields.cluster_bytes, MIN_CLUSTER_BYTES, MAX_CLUSTER_BYTES, "its cluster size in bytes"
    )
    REFUSALS.check_power_of_two(fields.table_clusters, 1, MAX_TABLE_CLUSTERS, "its table size in clusters")
    if not 1 <= fields.header_clusters <= MAX_HEADER_CLUSTERS:
        raise REFUSALS.malformed(
            f"a header of {fields.header_clusters} clusters is outside 1 to {MAX_HEADER_CLUSTERS}"
        )


def _check_size(header: Header, max_virtual_size_bytes: int) -> None:
    if not header.size_bytes:
        raise REFUSALS.empty()
    check_virtual_size(header.size_bytes, max_virtual_size_bytes)
    if header.size_bytes % SECTOR_BYTES:
        raise REFUSALS.malformed(f"a disk of {header.size_bytes} bytes is not made of whole sectors")
    if header.size_bytes > header.table_entries**2 * header.cluster_bytes:
        raise REFUSALS.malformed(f"a disk of {header.size_bytes} bytes is larger than its tables can map")
