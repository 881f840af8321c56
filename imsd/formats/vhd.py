"""VHD: reading fixed and dynamic disks.

A block of a dynamic disk is preceded by a bitmap of its sectors. A sector whose bit is 0 was never
written: it reads as zeros, whatever the file holds in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from imsd.contract import ByteRange

from .mapped_blocks import ABSENT, MappedBlocks, Places
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

# Sectors that one byte of a bitmap speaks for.
BYTE_SECTORS = 8


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


@dataclass(frozen=True, slots=True)
class _BitmapPart:
    """``place`` in the file holds the bits of the disk's sectors from ``first`` on."""

    first: int
    place: ByteRange


class DynamicVhdBlocks(MappedBlocks):
    """The disk of a dynamic file whose layout was checked."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, size_bytes: int, table: DynamicTable) -> None:
        super().__init__(source, size_bytes, table.block_bytes)
        self._table = FileTable(PageCache(source, ">u4"), ENTRY_BYTES, table.offset, table.entries)
        self._bitmap_bytes = table.bitmap_bytes
        self._taken = (ByteRange(0, FOOTER_BYTES), table.header, table.place)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        wanted: list[ByteRange] = []
        bitmaps: list[_BitmapPart] = []
        end = offset + len(buffer)
        for first, count in self._slices(offset, end):
            places = self._places(first, count)
            wanted += [
                ByteRange(run.offset, run.length) for run in self._stored_runs(first, places, offset, end)
            ]
            bitmaps += self._bitmap_parts(first, places, offset, end)
        if bitmaps:  # all at once, with the bytes that the next call reads
            self._source.require([*(bitmap.place for bitmap in bitmaps), *wanted])
        super().read_into(offset, buffer)
        for bitmap in bitmaps:
            self._clear_unwritten(bitmap, offset, buffer)

    def _places(self, first: int, count: int) -> Places:
        entries = self._table.read(first, count).astype(np.int64)
        bitmaps = np.where(entries == ENTRY_ABSENT, ABSENT, entries * SECTOR_BYTES)
        for taken in self._taken:
            end = bitmaps + self._bitmap_bytes + self._block_bytes
            if ((bitmaps >= 0) & (bitmaps < taken.end) & (end > taken.offset)).any():
                raise REFUSALS.malformed(f"a block lies over the header or the table at {taken.offset}")
        return np.where(bitmaps >= 0, bitmaps + self._bitmap_bytes, ABSENT)

    def _bitmap_parts(self, first: int, places: Places, start: int, end: int) -> Iterator[_BitmapPart]:
        """The parts of bitmaps that speak for the disk's bytes from ``start`` to ``end``."""
        for index in np.flatnonzero(places >= 0).tolist():
            guest = (first + index) * self._block_bytes
            span = BYTE_SECTORS * SECTOR_BYTES
            low = max(start - guest, 0) // span
            high = -(-min(end - guest, self._block_bytes) // span)
            bitmap = int(places[index]) - self._bitmap_bytes
            yield _BitmapPart(guest // SECTOR_BYTES + low * BYTE_SECTORS, ByteRange(bitmap + low, high - low))

    def _clear_unwritten(self, bitmap: _BitmapPart, offset: int, buffer: memoryview) -> None:
        """Fill the sectors of ``buffer`` (the disk from ``offset``) whose bit is 0 with zeros."""
        bits = np.frombuffer(self._source.read(bitmap.place.offset, bitmap.place.length), np.uint8)
        if (bits == 0xFF).all():
            return
        sectors = np.unpackbits(bits)  # the most significant bit comes first
        bounds = [0, *(np.flatnonzero(np.diff(sectors)) + 1).tolist(), len(sectors)]
        content = np.frombuffer(buffer, np.uint8)
        for low, high in pairwise(bounds):
            if not sectors[low]:
                begin = max((bitmap.first + low) * SECTOR_BYTES - offset, 0)
                content[begin : max((bitmap.first + high) * SECTOR_BYTES - offset, 0)] = 0
