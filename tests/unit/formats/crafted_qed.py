"""QED files made by hand, by the letter of the format's description, with any field wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.unit.formats.crafted_tables import packed, padded, some_bytes, split_entries

ABSENT, ZERO = 0, 1


@dataclass(frozen=True)
class Fields:
    """The header, as written; by default of a disk of four clusters of 4 KiB."""

    magic: bytes = b"QED\0"
    cluster_bytes: int = 4096
    table_clusters: int = 1
    header_clusters: int = 1
    features: int = 0
    compatible: int = 0
    autoclear: int = 0
    l1_offset: int = 4096
    size: int = 4 * 4096
    backing_offset: int = 0
    backing_bytes: int = 0

    @property
    def table_bytes(self) -> int:
        return self.cluster_bytes * self.table_clusters

    def pack(self) -> bytes:
        return struct.pack(
            "<4sIIIQQQQQII",
            self.magic,
            self.cluster_bytes,
            self.table_clusters,
            self.header_clusters,
            self.features,
            self.compatible,
            self.autoclear,
            self.l1_offset,
            self.size,
            self.backing_offset,
            self.backing_bytes,
        )


def crafted(
    entries: Sequence[int], data: bytes = b"", fields: Fields | None = None, table: int | None = None
) -> bytes:
    """Header, L1, L2 tables with ``entries`` where they are needed, and ``data`` from `data_offset` on.

    ``table``: what the first L1 entry says instead of where its table is.
    """
    fields = fields or Fields()
    l1, tables = [], b""
    first = fields.cluster_bytes + fields.table_bytes
    for part in split_entries(entries, fields.table_bytes // 8):
        l1.append(first + len(tables) if part else 0)
        tables += packed(part or [], "<")
    if table is not None:
        l1[0] = table
    head = padded(fields.pack(), fields.cluster_bytes)
    return head + packed(l1, "<").ljust(fields.table_bytes, b"\0") + tables + data


def data_offset(entries: Sequence[int], fields: Fields | None = None) -> int:
    """Where `crafted` puts its data."""
    return len(crafted(entries, b"", fields))


def sound_disk(chosen: random.Random) -> tuple[bytes, bytes]:
    """A small file with clusters of every kind, by the letter of the format, and the disk it holds."""
    is_long = chosen.random() < 0.5
    cluster = 4096 if is_long else chosen.choice([4096, 8192, 65536])
    fields = Fields(
        cluster_bytes=cluster,
        table_clusters=chosen.choice([1, 2] if is_long else [1, 2, 4]),
        features=chosen.choice([0, 0, 2, 4]),
        compatible=chosen.getrandbits(64),
        l1_offset=cluster,
    )
    per_table = fields.table_bytes // 8
    count = chosen.choice([per_table + 3, 2 * per_table]) if is_long else chosen.randrange(1, 12)
    kinds = [chosen.choice([0, 1, 2]) if not is_long or chosen.random() < 0.01 else 0 for _ in range(count)]
    place = data_offset(kinds, fields)
    entries, data, disk = [], b"", []
    for kind in kinds:
        entries.append(place + len(data) if kind == 2 else kind)
        plain = some_bytes(chosen, cluster) if kind == 2 else b""
        data += plain
        disk.append(plain or bytes(cluster))
    size = count * cluster - chosen.choice([0, cluster - 512])
    return crafted(entries, data, replace(fields, size=size)), b"".join(disk)[:size]


def sound_file(chosen: random.Random) -> bytes:
    """The file of `sound_disk`."""
    return sound_disk(chosen)[0]
