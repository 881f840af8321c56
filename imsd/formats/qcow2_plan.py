"""The plan of a QCOW2 file that is written front to back: where everything is, before the first byte.

::

    header | refcount table | refcount blocks | L1 | L2 tables | compressed clusters | plain clusters

Each part starts at a cluster. Compressed clusters lie one after another without a gap, in guest order;
plain ones follow, also in guest order, so that no room is lost between the two kinds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .qcow2_layout import (
    EXTENSION,
    EXTENSION_END,
    FLAG_COMPRESSED,
    FLAG_COPIED,
    HEADER_V2,
    HEADER_V3,
    INCOMPATIBLE_COMPRESSION,
    MAGIC,
    Compression,
)
from .raw import SECTOR_BYTES

Sizes = npt.NDArray[np.uint32]

HEADER_BYTES = 112
REFCOUNT_ORDER = 4
REFCOUNT_BYTES = 2


class ClusterSizes:
    """How many bytes of the file each guest cluster takes: 0 = it is zero, a cluster = it lies plain.

    Kept as one array an L2 table, for tables that are needed: four bytes a cluster.
    """

    def __init__(self, size_bytes: int, cluster_bits: int) -> None:
        self.size_bytes = size_bytes
        self.cluster_bits = cluster_bits
        self.cluster_bytes = 1 << cluster_bits
        self.clusters = -(-size_bytes // self.cluster_bytes)
        self.per_table = self.cluster_bytes // 8
        self.tables: dict[int, Sizes] = {}
        self._lock = threading.Lock()

    def put(self, first: int, sizes: Sizes) -> None:
        """Set the sizes of clusters from ``first`` on. Thread-safe for clusters that are apart."""
        done = 0
        while done < len(sizes):
            index, inside = divmod(first + done, self.per_table)
            part = sizes[done : done + self.per_table - inside]
            if part.any():
                self._table(index)[inside : inside + len(part)] = part
            done += len(part)

    def groups(self, group_bytes: int) -> Iterator[tuple[int, Sizes]]:
        """(number of the first, sizes) of clusters that cover ``group_bytes``, where one is not zero."""
        per_group = group_bytes // self.cluster_bytes
        for index in sorted(self.tables):
            table = self.tables[index]
            used = np.flatnonzero(table) // per_group
            for group in np.unique(used).tolist():
                start = group * per_group
                yield index * self.per_table + start, table[start : start + per_group]

    def _table(self, index: int) -> Sizes:
        with self._lock:
            if index not in self.tables:
                length = min(self.per_table, self.clusters - index * self.per_table)
                self.tables[index] = np.zeros(length, np.uint32)
            return self.tables[index]


class Qcow2Plan:
    """Made when all sizes are known; positions below are in clusters of the file."""

    def __init__(self, sizes: ClusterSizes, compression: Compression) -> None:
        self.sizes = sizes
        self._compression = compression
        self.tables = sorted(sizes.tables)
        # Per table: bytes of compressed clusters, and number of plain clusters, before its own.
        self._compressed_before = [0]
        self._plain_before = [0]
        for index in self.tables:
            table = sizes.tables[index]
            is_plain = table == sizes.cluster_bytes
            self._compressed_before.append(
                self._compressed_before[-1] + int(table[~is_plain].sum(dtype=np.int64))
            )
            self._plain_before.append(self._plain_before[-1] + int(is_plain.sum()))
        self.compressed_bytes = self._compressed_before[-1]
        self._place()

    def _place(self) -> None:
        cluster_bytes = self.sizes.cluster_bytes
        self.l1_entries = -(-self.sizes.clusters // self.sizes.per_table)
        self.l1_clusters = -(-8 * self.l1_entries // cluster_bytes)
        compressed = -(-self.compressed_bytes // cluster_bytes)
        rest = 1 + self.l1_clusters + len(self.tables) + compressed + self._plain_before[-1]
        per_block = cluster_bytes // REFCOUNT_BYTES
        self.refcount_blocks = self.refcount_clusters = 1
        while True:  # the refcounts count themselves; grows to a fixed point in a few rounds
            blocks = -(-(rest + self.refcount_blocks + self.refcount_clusters) // per_block)
            table = -(-8 * blocks // cluster_bytes)
            if (blocks, table) == (self.refcount_blocks, self.refcount_clusters):
                break
            self.refcount_blocks, self.refcount_clusters = blocks, table
        self.blocks_at = 1 + self.refcount_clusters
        self.l1_at = self.blocks_at + self.refcount_blocks
        self.l2_at = self.l1_at + self.l1_clusters
        self.compressed_at = self.l2_at + len(self.tables)
        self.plain_at = self.compressed_at + compressed
        self.end = self.plain_at + self._plain_before[-1]

    @property
    def file_size_bytes(self) -> int:
        return self.end * self.sizes.cluster_bytes

    def header(self) -> bytes:
        """The header without the rest of its cluster."""
        cluster_bytes = self.sizes.cluster_bytes
        base = HEADER_V2.pack(
            MAGIC,
            3,
            0,
            0,
            self.sizes.cluster_bits,
            self.sizes.size_bytes,
            0,
            self.l1_entries,
            self.l1_at * cluster_bytes,
            cluster_bytes,
            self.refcount_clusters,
            0,
            0,
        )
        features = INCOMPATIBLE_COMPRESSION if self._compression else 0
        more = HEADER_V3.pack(features, 0, 0, REFCOUNT_ORDER, HEADER_BYTES)
        kind = bytes([self._compression]).ljust(HEADER_BYTES - len(base) - len(more), b"\0")
        return base + more + kind + EXTENSION.pack(EXTENSION_END, 0)

    def refcount_table(self) -> bytes:
        """The refcount table without the rest of its last cluster."""
        blocks = np.arange(self.blocks_at, self.blocks_at + self.refcount_blocks, dtype=np.uint64)
        return (blocks << np.uint64(self.sizes.cluster_bits)).astype(">u8").tobytes()

    def refcount_block(self, number: int) -> bytes:
        """One refcount block, a cluster."""
        per_block = self.sizes.cluster_bytes // REFCOUNT_BYTES
        low, high = number * per_block, (number + 1) * per_block
        counts = np.zeros(per_block, np.int64)
        counts[: max(0, self.end - low)] = 1
        first, last = max(low, self.compressed_at), min(high, self.plain_at)
        if first < last:
            counts[first - low : last - low] = self._touched(first, last)
        return counts.astype(">u2").tobytes()

    def l1_part(self, first: int, count: int) -> bytes:
        """``count`` entries of the L1 table from number ``first`` on."""
        entries = np.zeros(count, np.uint64)
        low, high = bisect_left(self.tables, first), bisect_left(self.tables, first + count)
        hosts = np.arange(self.l2_at + low, self.l2_at + high, dtype=np.uint64)
        entries[np.array(self.tables[low:high], np.int64) - first] = (
            hosts << np.uint64(self.sizes.cluster_bits)
        ) | np.uint64(FLAG_COPIED)
        return entries.astype(">u8").tobytes()

    def l2_table(self, position: int) -> bytes:
        """The L2 table at ``position`` of `tables`, without zero entries at its end."""
        bits = self.sizes.cluster_bits
        table = self.sizes.tables[self.tables[position]].astype(np.int64)
        is_plain = table == self.sizes.cluster_bytes
        entries = np.zeros(len(table), np.uint64)
        hosts = self.plain_at + self._plain_before[position] + np.arange(int(is_plain.sum()))
        entries[is_plain] = (hosts.astype(np.uint64) << np.uint64(bits)) | np.uint64(FLAG_COPIED)
        is_compressed, start, end = self._compressed(position)
        more_sectors = (end - 1) // SECTOR_BYTES - start // SECTOR_BYTES
        entries[is_compressed] = (
            np.uint64(FLAG_COMPRESSED)
            | (more_sectors.astype(np.uint64) << np.uint64(62 - (bits - 8)))
            | start.astype(np.uint64)
        )
        return entries.astype(">u8").tobytes()

    def _compressed(
        self, position: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which clusters of a table are compressed; where in the file each of those starts and ends."""
        table = self.sizes.tables[self.tables[position]].astype(np.int64)
        is_compressed = (table > 0) & (table < self.sizes.cluster_bytes)
        base = (self.compressed_at << self.sizes.cluster_bits) + self._compressed_before[position]
        end = base + np.cumsum(table[is_compressed])
        return is_compressed, end - table[is_compressed], end

    def _touched(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """How many compressed clusters touch each cluster of the file from ``first`` to ``last``.

        A compressed cluster of 2 MiB has at least 77 bytes (smaller ones fewer, in proportion), so that
        16 bits always suffice.
        """
        bits = self.sizes.cluster_bits
        counts = np.zeros(last - first, np.int64)
        offset = (first - self.compressed_at) << bits
        position = max(0, bisect_right(self._compressed_before, offset) - 1)
        while (
            position < len(self.tables)
            and self._compressed_before[position] < (last - self.compressed_at) << bits
        ):
            _, start, end = self._compressed(position)
            starts_in, ends_in = (start >> bits) - first, (end - 1 >> bits) - first
            for touched in (starts_in, ends_in[starts_in != ends_in]):
                inside = touched[(touched >= 0) & (touched < len(counts))]
                counts += np.bincount(inside, minlength=len(counts))
            position += 1
        return counts
