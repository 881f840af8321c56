"""QCOW2 files made by hand, by the letter of the format's description, with any field wrong."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import zstandard

from tests.unit.formats.crafted_tables import padded, some_bytes

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


def sound_file(chosen: random.Random) -> bytes:
    """A small file with clusters of every kind, by the letter of the format."""
    bits = chosen.choice([9, 12, 14, 16])
    is_extended = bits >= 14 and chosen.random() < 0.4
    is_zstd = chosen.random() < 0.5
    cluster = 1 << bits
    count = chosen.randrange(1, 12)
    entries: list[int] = []
    data = bytearray()
    for _ in range(count):
        entry, bitmap = _some_cluster(chosen, bits, data, is_zstd=is_zstd)
        entries += [entry & ~ZERO if not entry & COMPRESSED else entry, bitmap] if is_extended else [entry]
    features = (8 if is_zstd else 0) | (16 if is_extended else 0) | (chosen.random() < 0.2)
    fields = Fields(
        cluster_bits=bits,
        size=count * cluster,
        l1_offset=cluster,
        incompatible=features,
        compression=is_zstd,
    )
    return crafted(entries, bytes(data), fields)


def _some_cluster(chosen: random.Random, bits: int, data: bytearray, *, is_zstd: bool) -> tuple[int, int]:
    """An entry and its bitmap; appends to ``data``, which lies in the file from the fourth cluster on."""
    cluster = 1 << bits
    plain = some_bytes(chosen, cluster)
    kind = chosen.randrange(4)
    if kind == 0:
        return chosen.choice([0, ZERO]), chosen.choice([0, 0xFFFF_FFFF << 32])
    if kind == 1:
        data[:] = padded(bytes(data), cluster)
        place = 3 * cluster + len(data)
        data += plain
        return place | COPIED, chosen.choice([0xFFFF_FFFF, 0xFFFF, 0xFF | 0xFF00 << 32])
    packer = zlib.compressobj(1, zlib.DEFLATED, -12)
    content = zstandard.compress(plain, 1) if is_zstd else packer.compress(plain) + packer.flush()
    place = 3 * cluster + len(data)
    data += content
    return compressed_entry(place, len(content), bits), 0
