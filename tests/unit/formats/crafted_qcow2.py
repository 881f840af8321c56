"""QCOW2 files made by hand, by the letter of the format's description, with any field wrong."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

COMPRESSED, COPIED, ZERO = 1 << 62, 1 << 63, 1


@dataclass(frozen=True)
class Fields:
    """The header, as written; by default of a disk of four clusters of 64 KiB."""

    magic: bytes = b"QFI\xfb"
    version: int = 3
    backing_offset: int = 0
    backing_bytes: int = 0
    cluster_bits: int = 16
    size: int = 4 << 16
    crypt_method: int = 0
    l1_entries: int = 1
    l1_offset: int = 1 << 16
    refcount_offset: int = 0
    refcount_clusters: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_bytes: int = 112
    compression: int = 0
    extensions: bytes = b""

    def pack(self) -> bytes:
        head = struct.pack(
            ">4sIQIIQIIQQIIQ",
            self.magic,
            self.version,
            self.backing_offset,
            self.backing_bytes,
            self.cluster_bits,
            self.size,
            self.crypt_method,
            self.l1_entries,
            self.l1_offset,
            self.refcount_offset,
            self.refcount_clusters,
            self.snapshots,
            self.snapshots_offset,
        )
        if self.version == 2:
            return head + self.extensions
        more = (self.incompatible, self.compatible, self.autoclear, self.refcount_order, self.header_bytes)
        return head + struct.pack(">QQQIIB7x", *more, self.compression) + self.extensions


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content.ljust(-(-len(content) // 8) * 8, b"\0")


def crafted(
    entries: Sequence[int], data: bytes = b"", fields: Fields | None = None, table: int | None = None
) -> bytes:
    """Header, L1, one L2 table with ``entries``, and ``data`` from the fourth cluster on.

    ``table``: what the L1 entry says instead of where the L2 table is. With extended L2 entries
    ``entries`` are descriptor and bitmap in turn.
    """
    fields = fields or Fields()
    cluster = 1 << fields.cluster_bits
    l1 = struct.pack(">Q", 2 * cluster | COPIED if table is None else table)
    l2 = struct.pack(f">{len(entries)}Q", *entries)
    parts = (fields.pack(), l1, l2)
    return b"".join(part.ljust(cluster, b"\0") for part in parts) + data


def with_fields(file: bytes, fields: Fields, **changes: int | bytes) -> bytes:
    """``file`` with the header of ``fields``, some of them changed."""
    head = replace(fields, **changes).pack()  # type: ignore[arg-type]
    return head + file[len(head) :]


def compressed_entry(offset: int, length: int, cluster_bits: int = 16) -> int:
    """The L2 entry of a compressed cluster of ``length`` bytes at ``offset``."""
    more_sectors = (offset + length - 1) // 512 - offset // 512
    return COMPRESSED | more_sectors << (62 - (cluster_bits - 8)) | offset


def finely_divided(size: int) -> bytes:
    """A disk of zero clusters of 512 bytes, each with an entry of its own."""
    tables = size // (512 * 64)
    l1_bytes = -(-8 * tables // 512) * 512
    fields = Fields(cluster_bits=9, size=size, l1_entries=tables, l1_offset=512)
    l1 = np.arange(tables, dtype=np.uint64) * np.uint64(512) + np.uint64(512 + l1_bytes)
    l2 = np.full(tables * 64, ZERO, np.uint64)
    return (
        fields.pack().ljust(512, b"\0")
        + l1.astype(">u8").tobytes().ljust(l1_bytes, b"\0")
        + l2.astype(">u8").tobytes()
    )
