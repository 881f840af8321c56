"""The L1 and L2 tables of a QCOW2 file, read on demand in pages through a small cache.

No table is ever held whole: a file may claim 32 MiB of L1 and thousands of L2 tables of 2 MiB each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imsd.contract import ByteRange

from .page_cache import BATCH_BYTES, PAGE_BYTES, PageCache, Words
from .qcow2_layout import OFFSET_MASK, Header, malformed
from .source import ByteSource

# Entries of a page, which maps 128 MiB of disk at 64 KiB a cluster.
L1_PAGE = PAGE_BYTES // 8


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """Neighbouring guest clusters from number ``first``; ``entries`` is None when all are unallocated.

    With extended L2 entries ``bitmaps`` has the subclusters of each entry, else it is None. A run that
    is not ``is_known`` has a table that was not looked at.
    """

    first: int
    count: int
    entries: Words | None = None
    bitmaps: Words | None = None
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class _Slice:
    """A piece of one L2 table: ``page`` holds guest clusters ``first`` and on; None where no table is."""

    first: int
    count: int
    page: ByteRange | None


class ClusterTables:
    """Says which guest cluster is where. Thread-safe."""

    def __init__(self, source: ByteSource, header: Header) -> None:
        self._header = header
        self._file_bytes = source.size_bytes
        self._cache = PageCache(source)
        self._entry_bytes = header.cluster_bytes // header.l2_entries
        self._slice_entries = min(header.cluster_bytes, PAGE_BYTES) // self._entry_bytes

    def runs(self, first: int, count: int, most_bytes: int | None = None) -> Iterator[ClusterRun]:
        """The guest clusters from ``first`` on, without gap. Raises `NeedBytes`, ImageRefused.

        Of L2 tables only about ``most_bytes`` are looked at, if given; what they leave is not known.
        """
        batch: list[_Slice] = []
        looked_at = 0
        for piece in self._slices(first, count):
            if piece.page and most_bytes is not None and looked_at >= most_bytes:
                yield from self._loaded(batch)
                batch = []
                yield ClusterRun(piece.first, piece.count, is_known=False)
                continue
            looked_at += piece.page.length if piece.page else 0
            batch.append(piece)
            if len(batch) * self._slice_entries * self._entry_bytes >= BATCH_BYTES:
                yield from self._loaded(batch)
                batch = []
        yield from self._loaded(batch)

    def _loaded(self, slices: Sequence[_Slice]) -> Iterator[ClusterRun]:
        words = self._cache.load([piece.page for piece in slices if piece.page])
        for piece in slices:
            if piece.page is None:
                yield ClusterRun(piece.first, piece.count)
                continue
            skipped = piece.first % self._slice_entries
            entries = words[piece.page].reshape(-1, self._entry_bytes // 8)[skipped : skipped + piece.count]
            bitmaps = entries[:, 1] if self._header.has_extended_l2 else None
            yield ClusterRun(piece.first, piece.count, entries[:, 0], bitmaps)

    def _slices(self, first: int, count: int) -> Iterator[_Slice]:
        per_table = self._header.l2_entries
        end = first + count
        for index, tables in self._l1(first // per_table, -(-end // per_table)):
            # Neighbouring entries without a table are one slice: a sparse disk of 64 TiB costs nothing.
            bounds = np.flatnonzero(np.diff(tables == 0)) + 1
            for start, stop in zip([0, *bounds.tolist()], [*bounds.tolist(), len(tables)], strict=True):
                low = max(first, (index + start) * per_table)
                high = min(end, (index + stop) * per_table)
                if not tables[start]:
                    yield _Slice(low, high - low, None)
                    continue
                yield from self._table_slices(low, high, index, tables)

    def _table_slices(self, low: int, high: int, index: int, tables: Words) -> Iterator[_Slice]:
        per_table, per_slice = self._header.l2_entries, self._slice_entries
        while low < high:
            table = int(tables[low // per_table - index])
            self._check_table(table)
            stop = min(high, (low // per_slice + 1) * per_slice)
            inside = low % per_table // per_slice * per_slice * self._entry_bytes
            yield _Slice(low, stop - low, ByteRange(table + inside, per_slice * self._entry_bytes))
            low = stop

    def _check_table(self, offset: int) -> None:
        if offset % self._header.cluster_bytes:
            raise malformed(f"an L2 table at {offset} is not at the start of a cluster")

    def _l1(self, first: int, end: int) -> Iterator[tuple[int, Words]]:
        """(index of the first, offsets of L2 tables), page by page, for L1 entries ``first`` to ``end``."""
        per_batch = BATCH_BYTES // 8
        while first < end:
            stop = min(end, (first // per_batch + 1) * per_batch)
            pages = [self._l1_page(number) for number in range(first // L1_PAGE, -(-stop // L1_PAGE))]
            words = self._cache.load(pages)
            for page in pages:
                skipped = (page.offset - self._header.l1_offset) // 8
                low, high = max(first, skipped), min(stop, skipped + L1_PAGE)
                yield low, words[page][low - skipped : high - skipped] & np.uint64(OFFSET_MASK)
            first = stop

    def _l1_page(self, number: int) -> ByteRange:
        entries = min(L1_PAGE, self._header.l1_entries - number * L1_PAGE)
        return ByteRange(self._header.l1_offset + number * PAGE_BYTES, 8 * entries)
