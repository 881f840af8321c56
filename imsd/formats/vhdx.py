"""VHDX: reading fixed and dynamic disks, with their log replayed in memory."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .mapped_blocks import ABSENT, MappedBlocks, Places
from .page_cache import FileTable, PageCache, Words
from .reader import Finding, FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource
from .vhdx_layout import (
    BAT_ENTRY_BYTES,
    BAT_OFFSET_SHIFT,
    BAT_STATE_MASK,
    FULLY_PRESENT,
    HEADER_SECTION_BYTES,
    MAX_FILE_BYTES,
    NO_ID,
    PARTIALLY_PRESENT,
    REFUSALS,
    UNMAPPED,
    Header,
    Regions,
    malformed,
    read_header,
    read_regions,
    truncated,
)
from .vhdx_log import replayed
from .vhdx_metadata import Disk, read_disk


class VhdxReader(FormatReader):
    name: ClassVar[str] = "vhdx"
    summary: ClassVar[str] = "Hyper-V, up to 64 TiB"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        header = read_header(source)
        findings: tuple[Finding, ...] = ()
        if header.log_id != NO_ID:
            source = replayed(source, header)
            findings = (
                Finding("VHDX_LOG_REPLAYED", "the file was not closed: the changes in its log were made"),
            )
        regions = read_regions(source, header)
        disk = read_disk(source, regions, max_virtual_size_bytes)
        blocks = VhdxBlocks(source, disk, header, regions)
        kind = "fixed" if disk.is_fixed else "dynamic"
        return OpenedImage(self.name, blocks, findings, f"{kind}, blocks of {binary_size(disk.block_bytes)}")


class VhdxBlocks(MappedBlocks):
    """The disk of a file whose headers, regions and metadata were checked."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, disk: Disk, header: Header, regions: Regions) -> None:
        super().__init__(source, disk.size_bytes, disk.block_bytes)
        self._bat = FileTable(PageCache(source, "<u8"), BAT_ENTRY_BYTES, regions.bat.offset, disk.bat_entries)
        self._chunk_ratio = disk.chunk_ratio
        self._reserved = (header.log, regions.bat, regions.metadata)

    def _places(self, first: int, count: int) -> Places:
        blocks = np.arange(first, first + count)
        numbers = blocks + blocks // self._chunk_ratio  # between chunks stand entries of sector bitmaps
        entries = self._bat.read(int(numbers[0]), int(numbers[-1] - numbers[0]) + 1)[numbers - numbers[0]]
        states = entries & np.uint64(BAT_STATE_MASK)
        if (states == PARTIALLY_PRESENT).any():
            raise REFUSALS.needs_another_file("a block is only partly in it")
        is_present = states == FULLY_PRESENT
        if (~is_present & (states > UNMAPPED)).any():
            raise malformed("the state of one of its blocks is not known")
        places = np.full(count, ABSENT, np.int64)
        places[is_present] = self._checked(entries[is_present])
        return places

    def _checked(self, entries: Words) -> Places:
        """Where the blocks of ``entries`` start, in bytes."""
        units = entries >> np.uint64(BAT_OFFSET_SHIFT)
        if (units >= MAX_FILE_BYTES >> BAT_OFFSET_SHIFT).any():
            raise truncated(f"a block lies beyond its end at {self._source.size_bytes}")
        places: Places = (units << np.uint64(BAT_OFFSET_SHIFT)).astype(np.int64)
        if (places < HEADER_SECTION_BYTES).any():
            raise malformed("a block lies over its headers")
        for taken in self._reserved:
            if ((places < taken.end) & (places + self._block_bytes > taken.offset)).any():
                raise malformed(f"a block lies over the region at {taken.offset}")
        return places
