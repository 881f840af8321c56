"""QCOW2, versions 2 and 3: reading.

Refcounts, snapshots and bitmaps play no part in reading the disk and are never looked at. What a table
says is checked where it is used; no place of the file is read unless the disk needs it.

QEMU reads zeros where a cluster lies beyond the end of the file. Here that is a truncated file: a disk
that came with bytes missing must not look whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .cluster_codec import inflate_into, unzstd_into
from .mapped_blocks import MAX_EXTENTS, PackedBlock, Pieces, ResolvedBlocks, StoredRun, add_extent
from .page_cache import Words
from .qcow2_layout import (
    FLAG_COMPRESSED,
    FLAG_ZERO,
    OFFSET_MASK,
    REFUSALS,
    SUBCLUSTERS,
    Compression,
    Header,
    malformed,
    read_header,
)
from .qcow2_tables import ClusterRun, ClusterTables
from .raw import SECTOR_BYTES
from .reader import Finding, FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource, Extent

Mask = npt.NDArray[np.bool_]

# One call of `extents` looks at no more bytes of tables, enough for 64 GiB at 64 KiB a cluster; what
# they leave counts as data.
MAX_LOOK_BYTES = 8 << 20

UNPACK_INTO = {Compression.ZLIB: inflate_into, Compression.ZSTD: unzstd_into}


class Qcow2Reader(FormatReader):
    name: ClassVar[str] = "qcow2"
    summary: ClassVar[str] = "QEMU copy-on-write, versions 2 and 3"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        header = read_header(source, max_virtual_size_bytes)
        blocks = Qcow2Blocks(source, header)
        return OpenedImage(self.name, blocks, list(_findings(header)), _variant(header))


class Qcow2Blocks(ResolvedBlocks):
    """The disk of a QCOW2 file."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, header: Header) -> None:
        # The file may lack what lies beyond the header's size, in the last sector.
        super().__init__(source, header.virtual_size_bytes, header.cluster_bytes, header.size_bytes)
        self._header = header
        self._tables = ClusterTables(source, header)
        self._cluster_bytes = header.cluster_bytes
        # What an entry can tell apart: a cluster, or a part of it.
        self._parts = SUBCLUSTERS if header.has_extended_l2 else 1
        self._unit_bytes = header.cluster_bytes // self._parts
        self._unpack = UNPACK_INTO[header.compression]
        # Of a compressed cluster: how many sectors it has stands above where it is.
        self._offset_bits = 62 - (header.cluster_bits - 8)

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        end = start + length
        for run in self._runs(start, end, MAX_LOOK_BYTES):
            if len(found) >= MAX_EXTENTS:
                add_extent(found, found[-1].end, end, is_zero=False)
                break
            self._check_inside(run, start, min(end, self._data_bytes))
            for low, high, is_zero in self._zero_map(run):
                low, high = max(low, start), min(high, end)
                if low < high:
                    add_extent(found, low, high, is_zero=is_zero)
        return found

    def _resolve(self, start: int, end: int) -> tuple[Sequence[StoredRun], Sequence[PackedBlock]]:
        stored: list[StoredRun] = []
        packed: list[PackedBlock] = []
        for run in self._runs(start, end):
            if run.entries is not None:
                stored += self._joined(*self._stored_pieces(run, start, end))
                packed += self._compressed_clusters(run)
        return stored, packed

    def _unpack_into(self, content: memoryview, out: memoryview) -> bool:
        return self._unpack(content, out)

    def _runs(self, start: int, end: int, most_bytes: int | None = None) -> Iterator[ClusterRun]:
        first = start // self._cluster_bytes
        return self._tables.runs(first, -(-end // self._cluster_bytes) - first, most_bytes)

    def _zero_map(self, run: ClusterRun) -> Iterator[tuple[int, int, bool]]:
        """(start, end, whether zero) of the parts of a run, in bytes of the disk."""
        start = run.first * self._cluster_bytes
        if run.entries is None:
            yield start, start + run.count * self._cluster_bytes, run.is_known
            return
        is_compressed = (run.entries & np.uint64(FLAG_COMPRESSED)) != 0
        is_data = (self._stored_units(run, is_compressed) | is_compressed[:, None]).reshape(-1)
        bounds = [0, *(np.flatnonzero(np.diff(is_data)) + 1).tolist(), len(is_data)]
        for low, high in pairwise(bounds):
            yield start + low * self._unit_bytes, start + high * self._unit_bytes, not is_data[low]

    def _stored_units(self, run: ClusterRun, is_compressed: Mask) -> Mask:
        """Which units of each cluster lie plain in the file; one row a cluster."""
        assert run.entries is not None
        is_placed = ~is_compressed & ((run.entries & np.uint64(OFFSET_MASK)) != 0)
        if run.bitmaps is None:
            is_stored: Mask = is_placed & ((run.entries & np.uint64(FLAG_ZERO)) == 0)
            return is_stored[:, None]
        allocated = _bits(run.bitmaps) & ~is_compressed[:, None]
        if np.any(allocated & _bits(run.bitmaps >> np.uint64(SUBCLUSTERS))):
            raise malformed("a subcluster is both allocated and zero")
        if np.any(allocated & ~is_placed[:, None]):
            raise malformed("a subcluster is allocated in a cluster that has no place")
        return allocated

    def _check_inside(self, run: ClusterRun, start: int, end: int) -> None:
        """Refuse the clusters of a run that lie beyond the end of the file, as reading them would."""
        if run.entries is None or start >= end:
            return
        is_compressed = (run.entries & np.uint64(FLAG_COMPRESSED)) != 0
        self._check_begins(self._compressed_offsets(run.entries[is_compressed]))
        hosts = run.entries[~is_compressed] & np.uint64(OFFSET_MASK)
        if int(hosts.max(initial=0)) + self._cluster_bytes > self._source.size_bytes:
            self._check_ends(*self._stored_pieces(run, start, end))

    def _compressed_offsets(self, entries: Words) -> Words:
        return entries & np.uint64((1 << self._offset_bits) - 1)

    def _stored_pieces(self, run: ClusterRun, start: int, end: int) -> Pieces:
        """What of ``start`` to ``end`` lies plain in the file."""
        assert run.entries is not None
        is_compressed = (run.entries & np.uint64(FLAG_COMPRESSED)) != 0
        self._check_zero_flags(run, is_compressed)
        is_stored = self._stored_units(run, is_compressed)
        hosts = (run.entries & np.uint64(OFFSET_MASK)).astype(np.int64)
        if np.any(is_stored.any(axis=1) & (hosts % self._cluster_bytes != 0)):
            raise malformed("a cluster is not at a multiple of the cluster size")
        units = np.flatnonzero(is_stored)
        guest = run.first * self._cluster_bytes + units * self._unit_bytes
        is_wanted = (guest < end) & (guest + self._unit_bytes > start)
        units, guest = units[is_wanted], guest[is_wanted]
        offset = hosts[units // self._parts] + units % self._parts * self._unit_bytes
        skipped = np.maximum(start - guest, 0)
        length = np.minimum(end - guest, self._unit_bytes) - skipped
        return guest + skipped, offset + skipped, length

    def _check_zero_flags(self, run: ClusterRun, is_compressed: Mask) -> None:
        assert run.entries is not None
        has_flag = (run.entries & np.uint64(FLAG_ZERO)) != 0
        if self._header.version == 2 and np.any(has_flag & ~is_compressed):
            raise malformed("a cluster of version 2 has the zero flag of version 3")

    def _compressed_clusters(self, run: ClusterRun) -> Iterator[PackedBlock]:
        assert run.entries is not None
        found = np.flatnonzero((run.entries & np.uint64(FLAG_COMPRESSED)) != 0)
        offsets = self._compressed_offsets(run.entries[found])
        self._check_begins(offsets)
        sectors_mask = (1 << (self._header.cluster_bits - 8)) - 1
        for index, offset, entry in zip(
            found.tolist(), offsets.tolist(), run.entries[found].tolist(), strict=True
        ):
            sectors = (entry >> self._offset_bits & sectors_mask) + 1
            end = offset - offset % SECTOR_BYTES + sectors * SECTOR_BYTES
            yield self._packed_block((run.first + index) * self._cluster_bytes, offset, end)


def _variant(header: Header) -> str:
    extended = ", extended L2 entries" if header.has_extended_l2 else ""
    size = binary_size(header.cluster_bytes)
    return f"version {header.version}, {header.compression.name.lower()}, clusters of {size}{extended}"


def _findings(header: Header) -> Iterator[Finding]:
    if header.snapshots:
        yield Finding(
            "QCOW2_SNAPSHOTS_IGNORED",
            f"the file has {header.snapshots} internal snapshots: only the current state of the disk is used",
        )
    if header.has_bitmaps:
        yield Finding("QCOW2_BITMAPS_IGNORED", "the file has dirty bitmaps: they are not kept")
    if header.is_dirty:
        yield Finding(
            "QCOW2_NOT_CLOSED", "the file was not closed cleanly: the last writes to the disk may be missing"
        )
    if header.size_bytes % SECTOR_BYTES:
        yield Finding(
            "QCOW2_SIZE_ROUNDED_UP",
            "the disk ends inside a sector; it goes on with zeros to the sector's end",
        )


def _bits(bitmaps: Words) -> Mask:
    """The lower 32 bits of each bitmap, the least significant first; one row a bitmap."""
    low = (bitmaps & np.uint64(0xFFFF_FFFF)).astype("<u4")
    return np.unpackbits(low.view(np.uint8), bitorder="little").reshape(-1, SUBCLUSTERS).view(np.bool_)
