"""QED: reading. Clusters are absent, zero, or plain.

A file that was not closed cleanly may have tables and clusters that nothing refers to; what its tables do
refer to is right, so that it is read, with a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from .mapped_blocks import ABSENT, MappedBlocks, Places
from .page_cache import FileTable, PageCache, TableShape, TwoLevelTable, Words
from .qed_layout import ENTRY_BYTES, ENTRY_ZERO, REFUSALS, Header, check_table, read_header
from .reader import Finding, FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource


class QedReader(FormatReader):
    name: ClassVar[str] = "qed"
    summary: ClassVar[str] = "QEMU enhanced disk"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        header = read_header(source, max_virtual_size_bytes)
        blocks = QedBlocks(source, header)
        cluster, table = binary_size(header.cluster_bytes), binary_size(header.table_bytes)
        variant = f"clusters of {cluster}, tables of {table}"
        return OpenedImage(self.name, blocks, list(_findings(header)), variant)


class QedBlocks(MappedBlocks):
    """The disk of a QED file."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, header: Header) -> None:
        super().__init__(source, header.size_bytes, header.cluster_bytes)
        self._header = header
        cache = PageCache(source, "<u8")
        self._table = TwoLevelTable(
            FileTable(cache, ENTRY_BYTES, header.l1_offset, header.table_entries),
            cache,
            TableShape(ENTRY_BYTES, header.table_entries),
            self._places_of_tables,
        )

    def _places(self, first: int, count: int) -> Places:
        entries = self._table.read(first, count)
        is_plain = entries > np.uint64(ENTRY_ZERO)
        places = entries[is_plain]
        if np.any(places % np.uint64(self._block_bytes)):
            raise REFUSALS.malformed("a cluster is not at a multiple of the cluster size")
        if np.any(places < np.uint64(self._header.header_bytes)):
            raise REFUSALS.malformed("a cluster overlaps the header")
        if np.any(places >= np.uint64(self._source.size_bytes)):
            raise REFUSALS.truncated(f"a cluster lies beyond its end at {self._source.size_bytes}")
        return np.where(is_plain, entries.astype(np.int64), ABSENT)

    def _absent_from(self, first: int, count: int) -> int:
        return self._table.absent_from(first, count)

    def _places_of_tables(self, entries: Words) -> Words:
        for offset in np.unique(entries).tolist():
            if offset:
                check_table(self._header, offset, self._source.size_bytes)
        return entries


def _findings(header: Header) -> Iterator[Finding]:
    if header.needs_check:
        yield Finding(
            "QED_NOT_CLOSED", "the file was not closed cleanly: the last writes to the disk may be missing"
        )
