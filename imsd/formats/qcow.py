"""QCOW version 1: reading. Clusters are absent, plain, or compressed as one raw deflate stream.

As for QCOW2, what lies beyond the end of the file is a truncated file, where QEMU reads zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from .cluster_codec import inflate_into
from .mapped_blocks import ABSENT, PACKED, MappedBlocks, PackedBlock, Places
from .page_cache import FileTable, PageCache, TableShape, TwoLevelTable, Words
from .qcow_layout import ENTRY_BYTES, FLAG_COMPRESSED, REFUSALS, Header, read_header
from .raw import SECTOR_BYTES
from .reader import Finding, FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource


class QcowReader(FormatReader):
    name: ClassVar[str] = "qcow"
    summary: ClassVar[str] = "QEMU copy-on-write, version 1"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        header = read_header(source, max_virtual_size_bytes)
        blocks = QcowBlocks(source, header)
        variant = f"clusters of {binary_size(header.cluster_bytes)}"
        return OpenedImage(self.name, blocks, list(_findings(header)), variant)


class QcowBlocks(MappedBlocks):
    """The disk of a QCOW file."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, header: Header) -> None:
        super().__init__(source, header.virtual_size_bytes, header.cluster_bytes, header.size_bytes)
        cache = PageCache(source)
        self._table_bytes = header.l2_entries * ENTRY_BYTES
        self._table = TwoLevelTable(
            FileTable(cache, ENTRY_BYTES, header.l1_offset, header.l1_entries),
            cache,
            TableShape(ENTRY_BYTES, header.l2_entries),
            self._places_of_tables,
        )
        # Of a compressed cluster: how long it is stands above where it is.
        self._offset_bits = 63 - header.cluster_bits

    def _places(self, first: int, count: int) -> Places:
        entries = self._table.read(first, count)
        is_packed = entries >= np.uint64(FLAG_COMPRESSED)
        is_plain = (entries != 0) & ~is_packed
        if np.any(entries[is_plain] % np.uint64(SECTOR_BYTES)):
            raise REFUSALS.malformed("a cluster is not at the start of a sector")
        self._check_packed(entries[is_packed])
        return np.where(is_packed, PACKED, np.where(is_plain, entries.astype(np.int64), ABSENT))

    def _check_packed(self, entries: Words) -> None:
        offsets = entries & np.uint64((1 << self._offset_bits) - 1)
        lengths = entries >> np.uint64(self._offset_bits) & np.uint64(self._block_bytes - 1)
        if len(without := offsets[lengths == 0]):
            raise REFUSALS.malformed(f"the compressed cluster at {int(without[0])} has no byte")
        self._check_begins(offsets)

    def _packed(self, blocks: Sequence[int]) -> Sequence[PackedBlock]:
        first = blocks[0]
        entries = self._table.read(first, blocks[-1] - first + 1)[np.array(blocks) - first]
        return [
            self._place(block * self._block_bytes, entry)
            for block, entry in zip(blocks, entries.tolist(), strict=True)
        ]

    def _place(self, guest: int, entry: int) -> PackedBlock:
        offset = entry & ((1 << self._offset_bits) - 1)
        length = entry >> self._offset_bits & (self._block_bytes - 1)
        return self._packed_block(guest, offset, offset + length)

    def _unpack_into(self, content: memoryview, out: memoryview) -> bool:
        return inflate_into(content, out)

    def _absent_from(self, first: int, count: int) -> int:
        return self._table.absent_from(first, count)

    def _places_of_tables(self, entries: Words) -> Words:
        if np.any(entries % np.uint64(SECTOR_BYTES)):
            raise REFUSALS.malformed("an L2 table is not at the start of a sector")
        ends = np.minimum(entries, np.uint64(1 << 62)) + np.uint64(self._table_bytes)
        if np.any((entries != 0) & (ends > np.uint64(self._source.size_bytes))):
            raise REFUSALS.truncated(f"an L2 table ends beyond its end at {self._source.size_bytes}")
        return entries


def _findings(header: Header) -> Iterator[Finding]:
    if header.size_bytes % SECTOR_BYTES:
        yield Finding(
            "QCOW_SIZE_ROUNDED_UP", "the disk ends inside a sector; it goes on with zeros to the sector's end"
        )
