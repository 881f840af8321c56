"""QCOW version 1 files made by hand, by the letter of the format's description, with any field wrong."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tests.unit.formats.crafted_tables import packed, padded, some_bytes, split_entries

COMPRESSED = 1 << 63
L1_OFFSET = 48


@dataclass(frozen=True)
class Fields:
    """The header, as written; by default of a disk of four clusters of 4 KiB."""

    magic: bytes = b"QFI\xfb"
    version: int = 1
    backing_offset: int = 0
    backing_bytes: int = 0
    mtime: int = 0
    size: int = 4 << 12
    cluster_bits: int = 12
    l2_bits: int = 9
    crypt_method: int = 0
    l1_offset: int = L1_OFFSET

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    def pack(self) -> bytes:
        return struct.pack(
            ">4sIQIIQBBxxIQ",
            self.magic,
            self.version,
            self.backing_offset,
            self.backing_bytes,
            self.mtime,
            self.size,
            self.cluster_bits,
            self.l2_bits,
            self.crypt_method,
            self.l1_offset,
        )


def crafted(entries: Sequence[int], data: bytes = b"", fields: Fields | None = None) -> bytes:
    """Header and L1, L2 tables with ``entries`` where they are needed, and ``data`` from `data_offset` on."""
    fields = fields or Fields()
    l1, tables = [], b""
    first = len(padded(bytes(L1_OFFSET + 8 * -(-len(entries) >> fields.l2_bits)), fields.cluster_bytes))
    for table in split_entries(entries, 1 << fields.l2_bits):
        l1.append(first + len(tables) if table else 0)
        tables += padded(packed(table or [], ">"), fields.cluster_bytes)
    return (fields.pack() + packed(l1, ">")).ljust(first, b"\0") + tables + data


def data_offset(entries: Sequence[int], fields: Fields | None = None) -> int:
    """Where `crafted` puts its data."""
    return len(crafted(entries, b"", fields))


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    return packer.compress(content) + packer.flush()


def compressed_entry(offset: int, length: int, cluster_bits: int = 12) -> int:
    """The L2 entry of a compressed cluster of ``length`` bytes at ``offset``."""
    return COMPRESSED | length << (63 - cluster_bits) | offset


def sound_disk(chosen: random.Random) -> tuple[bytes, bytes]:
    """A small file with clusters of every kind, by the letter of the format, and the disk it holds."""
    bits, l2_bits = chosen.choice([(9, 6), (9, 9), (10, 6), (12, 6), (16, 6)])
    cluster = 1 << bits
    is_long = bits < 11 and chosen.random() < 0.5
    count = chosen.choice([(1 << l2_bits) + 3, 3 << l2_bits]) if is_long else chosen.randrange(1, 12)
    kinds = [chosen.choice([0, 1, 2]) if not is_long or chosen.random() < 0.05 else 0 for _ in range(count)]
    size = count * cluster - chosen.choice([0, cluster - 512])
    fields = Fields(size=size, cluster_bits=bits, l2_bits=l2_bits)
    first = data_offset(kinds, fields)
    entries, data, disk = [], b"", b""
    for kind in kinds:
        plain = some_bytes(chosen, cluster) if kind else bytes(cluster)
        content = deflated(plain)
        disk += plain
        if kind == 0:
            entries.append(0)
        elif kind == 2 and len(content) < cluster:
            entries.append(compressed_entry(first + len(data), len(content), bits))
            data += content
        else:
            data = padded(data, cluster)
            entries.append(first + len(data))
            data += plain
    return crafted(entries, data, fields), disk[:size]


def sound_file(chosen: random.Random) -> bytes:
    """The file of `sound_disk`."""
    return sound_disk(chosen)[0]
