"""VDI: reading. Blocks are absent, zero, or plain.

Static files have a map like dynamic ones. Two blocks of the disk that name the same block of the file both
read as what is there: to look for that would take the whole map, and it gives away nothing but the file's
own bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from .mapped_blocks import ABSENT, MappedBlocks, Places
from .page_cache import FileTable, PageCache
from .raw import SECTOR_BYTES
from .reader import Finding, FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource
from .vdi_layout import ENTRY_BYTES, ENTRY_ZERO, REFUSALS, Header, read_header


class VdiReader(FormatReader):
    name: ClassVar[str] = "vdi"
    summary: ClassVar[str] = "VirtualBox"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        header = read_header(source, max_virtual_size_bytes)
        blocks = VdiBlocks(source, header)
        variant = f"{header.kind.name.lower()}, blocks of {binary_size(header.block_bytes)}"
        return OpenedImage(self.name, blocks, list(_findings(header)), variant)


class VdiBlocks(MappedBlocks):
    """The disk of a VDI file."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, header: Header) -> None:
        super().__init__(source, header.virtual_size_bytes, header.block_bytes, header.size_bytes)
        self._header = header
        self._map = FileTable(PageCache(source, "<u4"), ENTRY_BYTES, header.map_offset, header.blocks)

    def _places(self, first: int, count: int) -> Places:
        entries = self._map.read(first, count)
        is_plain = entries < np.uint64(ENTRY_ZERO)
        if np.any(is_plain & (entries >= np.uint64(self._header.blocks))):
            raise REFUSALS.malformed(f"its map names a block beyond the {self._header.blocks} it may have")
        places = entries.astype(np.int64) * self._block_bytes + self._header.data_offset
        return np.where(is_plain, places, ABSENT)


def _findings(header: Header) -> Iterator[Finding]:
    if header.size_bytes % SECTOR_BYTES:
        yield Finding(
            "VDI_SIZE_ROUNDED_UP", "the disk ends inside a sector; it goes on with zeros to the sector's end"
        )
