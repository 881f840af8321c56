"""Tables of a file, read in pages on demand through a small cache.

No table is ever held whole: a file may claim many MiB of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imsd.contract import ByteRange

from .source import ByteSource

Words = npt.NDArray[np.uint64]

PAGE_BYTES = 16 << 10
CACHE_BYTES = 512 << 10
# Entries that are read at once take at most this.
BATCH_BYTES = 4 << 20


class PageCache:
    """Pages of a file as 64-bit words; the least recently used ones go first. Thread-safe.

    ``entry_type``: the numpy type of an entry in the file, such as ``">u8"`` or ``"<u4"``.
    """

    def __init__(self, source: ByteSource, entry_type: str = ">u8") -> None:
        self._source = source
        self._entry_type = np.dtype(entry_type)
        self._pages: OrderedDict[ByteRange, Words] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def load(self, pages: Sequence[ByteRange]) -> dict[ByteRange, Words]:
        """The words of each page. Raises `NeedBytes` with all pages that are missing, ImageRefused."""
        found: dict[ByteRange, Words] = {}
        with self._lock:
            for page in pages:
                if (words := self._pages.get(page)) is not None:
                    self._pages.move_to_end(page)
                    found[page] = words
        missing = [page for page in dict.fromkeys(pages) if page not in found]
        if missing:
            self._source.require(missing)
            found |= {page: self._read(page) for page in missing}
        return found

    def _read(self, page: ByteRange) -> Words:
        content = self._source.read(page.offset, page.length)
        words: Words = np.frombuffer(content, self._entry_type).astype(np.uint64)
        with self._lock:
            if page not in self._pages:
                self._pages[page] = words
                self._bytes += words.nbytes
            while self._bytes > CACHE_BYTES and len(self._pages) > 1:
                _, oldest = self._pages.popitem(last=False)
                self._bytes -= oldest.nbytes
        return words


class FileTable:
    """One array of ``entries`` numbers in a file, from ``offset``, read in pages. Thread-safe.

    Tables that share a ``cache`` share its limit. That the table lies inside the file is the caller's check.
    """

    def __init__(self, cache: PageCache, entry_bytes: int, offset: int, entries: int) -> None:
        self._cache = cache
        self._entry_bytes = entry_bytes
        self.per_page = PAGE_BYTES // entry_bytes
        self._offset = offset
        self.entries = entries

    def read(self, first: int, count: int) -> Words:
        """Entries from ``first`` on, at most `BATCH_BYTES` of them. Raises as `PageCache.load`."""
        if not count:
            return np.empty(0, np.uint64)
        pages = self.pages(first, count)
        words = self._cache.load(pages)
        joined = np.concatenate([words[page] for page in pages]) if len(pages) > 1 else words[pages[0]]
        skipped = first % self.per_page
        return joined[skipped : skipped + count]

    def pages(self, first: int, count: int) -> list[ByteRange]:
        """The pages that hold entries from ``first`` on, to load those of several tables at once."""
        numbers = range(first // self.per_page, -(-(first + count) // self.per_page))
        return [self._page(number) for number in numbers]

    def _page(self, number: int) -> ByteRange:
        entries = min(self.per_page, self.entries - number * self.per_page)
        return ByteRange(self._offset + number * PAGE_BYTES, entries * self._entry_bytes)


@dataclass(frozen=True, slots=True)
class TableShape:
    """``entries`` numbers of ``entry_bytes`` in every second-level table."""

    entry_bytes: int
    entries: int


class TwoLevelTable:
    """Entries of second-level tables, which the entries of a first-level table point to. Thread-safe.

    ``place_of``: the offset in the file of each second-level table from the entries of the first level, 0
    where there is none; raises ImageRefused for one that is not where a table may be.
    """

    def __init__(
        self,
        first_level: FileTable,
        cache: PageCache,
        shape: TableShape,
        place_of: Callable[[Words], Words],
    ) -> None:
        self._first_level = first_level
        self._cache = cache
        self._shape = shape
        self._place_of = place_of

    def absent_from(self, first: int, count: int) -> int:
        """How many of ``count`` entries from ``first`` on are of tables that are not there.

        At most those of one batch of the first level. Raises as `PageCache.load`.
        """
        per_table = self._shape.entries
        end = first + count
        low = first // per_table
        tables = min(-(-end // per_table) - low, BATCH_BYTES // self._shape.entry_bytes)
        places = self._place_of(self._first_level.read(low, tables))
        found = np.flatnonzero(places)
        stop = low + (int(found[0]) if len(found) else tables)
        return max(0, min(stop * per_table, end) - first)

    def read(self, first: int, count: int) -> Words:
        """Entries ``first`` to ``first + count``, 0 where there is no table. Raises as `PageCache.load`."""
        per_table = self._shape.entries
        end = first + count
        low = first // per_table
        places = self._place_of(self._first_level.read(low, -(-end // per_table) - low))
        found = np.zeros(count, np.uint64)
        parts: list[tuple[int, list[ByteRange], int, int]] = []
        for index in np.flatnonzero(places).tolist():
            start = (low + index) * per_table
            begin, stop = max(first, start), min(end, start + per_table)
            table = FileTable(self._cache, self._shape.entry_bytes, int(places[index]), per_table)
            pages = table.pages(begin - start, stop - begin)
            parts.append((begin, pages, (begin - start) % table.per_page, stop - begin))
        words = self._cache.load([page for _, pages, _, _ in parts for page in pages])
        for begin, pages, skipped, length in parts:
            joined = np.concatenate([words[page] for page in pages])
            found[begin - first : begin - first + length] = joined[skipped : skipped + length]
        return found
