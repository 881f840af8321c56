"""VHD: reading fixed and dynamic disks.

A block of a dynamic disk is preceded by a bitmap of its sectors. A sector whose bit is 0 was never
written: it reads as zeros, whatever the file holds in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np

from imsd.contract import ByteRange

from .mapped_blocks import ABSENT, MappedBlocks, PackedBlock, Places, StoredRun
from .page_cache import FileTable, PageCache
from .raw import SECTOR_BYTES, RawBlocks
from .reader import FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource, PartSource
from .vhd_layout import (
    ENTRY_ABSENT,
    ENTRY_BYTES,
    FOOTER_BYTES,
    REFUSALS,
    DynamicTable,
    read_layout,
)

# What one byte of a bitmap speaks for.
SPAN_BYTES = 8 * SECTOR_BYTES


class VhdReader(FormatReader):
    name: ClassVar[str] = "vhd"
    summary: ClassVar[str] = "Virtual PC and Hyper-V, up to 2040 GiB"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        layout = read_layout(source, max_virtual_size_bytes)
        if layout.table is None:
            blocks = RawBlocks(PartSource(source, 0, layout.size_bytes))
            return OpenedImage(self.name, blocks, layout.findings, "fixed")
        variant = f"dynamic, blocks of {binary_size(layout.table.block_bytes)}"
        table_blocks = DynamicVhdBlocks(source, layout.size_bytes, layout.table)
        return OpenedImage(self.name, table_blocks, layout.findings, variant)


class DynamicVhdBlocks(MappedBlocks):
    """The disk of a dynamic file whose layout was checked."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, size_bytes: int, table: DynamicTable) -> None:
        super().__init__(source, size_bytes, table.block_bytes)
        self._table = FileTable(PageCache(source, ">u4"), ENTRY_BYTES, table.offset, table.entries)
        self._bitmap_bytes = table.bitmap_bytes
        self._taken = (ByteRange(0, FOOTER_BYTES), table.header, table.place)

    def _resolve(self, start: int, end: int) -> tuple[Sequence[StoredRun], Sequence[PackedBlock]]:
        stored, packed = super()._resolve(start, end)
        runs = [part for run in stored for part in self._by_block(run)]
        if runs:  # all at once, with the bytes that are read next
            self._source.require(
                [*map(self._bits_of, runs), *(ByteRange(run.offset, run.length) for run in runs)]
            )
        return runs, packed

    def _read_run(self, run: StoredRun, out: memoryview) -> None:
        super()._read_run(run, out)
        place = self._bits_of(run)
        bits = np.frombuffer(self._source.read(place.offset, place.length), np.uint8)
        if (bits == 0xFF).all():
            return
        sectors = np.unpackbits(bits)  # the most significant bit comes first
        bounds = [0, *(np.flatnonzero(np.diff(sectors)) + 1).tolist(), len(sectors)]
        content, skipped = np.frombuffer(out, np.uint8), run.guest % SPAN_BYTES
        for low, high in pairwise(bounds):
            if not sectors[low]:
                begin = max(low * SECTOR_BYTES - skipped, 0)
                content[begin : max(high * SECTOR_BYTES - skipped, 0)] = 0

    def _places(self, first: int, count: int) -> Places:
        entries = self._table.read(first, count).astype(np.int64)
        bitmaps = np.where(entries == ENTRY_ABSENT, ABSENT, entries * SECTOR_BYTES)
        for taken in self._taken:
            end = bitmaps + self._bitmap_bytes + self._block_bytes
            if ((bitmaps >= 0) & (bitmaps < taken.end) & (end > taken.offset)).any():
                raise REFUSALS.malformed(f"a block lies over the header or the table at {taken.offset}")
        return np.where(bitmaps >= 0, bitmaps + self._bitmap_bytes, ABSENT)

    def _by_block(self, run: StoredRun) -> Iterator[StoredRun]:
        """``run`` cut where blocks begin: only in hostile files are blocks neighbours."""
        end = run.guest + run.length
        for block in range(run.guest // self._block_bytes, -(-end // self._block_bytes)):
            low = max(run.guest, block * self._block_bytes)
            high = min(end, (block + 1) * self._block_bytes)
            yield StoredRun(low, run.offset + low - run.guest, high - low)

    def _bits_of(self, run: StoredRun) -> ByteRange:
        """Where the bits of the sectors of ``run`` are, all of them in one block."""
        within = run.guest % self._block_bytes
        bitmap = run.offset - within - self._bitmap_bytes
        low, high = within // SPAN_BYTES, -(-(within + run.length) // SPAN_BYTES)
        return ByteRange(bitmap + low, high - low)
