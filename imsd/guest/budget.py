"""A disk read through a budget, and the pages of it that are kept.

The disk is behind somebody else's call (a pipe, a store), so it is fetched in whole pages, several at
once when more is wanted, and a structure that is walked in small steps costs few calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .volume import Volume

PAGE_BYTES = 64 << 10
MAX_KEPT_PAGES = 256  # 16 MiB
MAX_FETCH_BYTES = 1 << 20


class BudgetExhausted(BaseException):
    """The inspection must end now, with what it knows.

    No `Exception`: a reader or a rule that steps over damage must not step over this.
    """


@dataclass(frozen=True, slots=True)
class Budget:
    """What one inspection may use: calls for bytes of the disk, and their sum."""

    reads: int = 20_000
    read_bytes: int = 64 << 20


class PagedVolume(Volume):
    """``fetch(offset, length)`` gives bytes of the disk: 1 byte to 1 MiB, inside it.

    Reading raises `BudgetExhausted` when a call would exceed the budget.
    """

    is_cached = True

    def __init__(self, size_bytes: int, fetch: Callable[[int, int], bytes], budget: Budget) -> None:
        self.size_bytes = size_bytes
        self._fetch = fetch
        self._budget = budget
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self.reads = 0
        self.read_bytes = 0

    def _read(self, offset: int, length: int) -> bytes:
        first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
        if first == last:
            content, start = self._page(first), offset - first * PAGE_BYTES
            return content[start : start + length]
        pieces: list[bytes] = []
        index = first
        while index <= last:
            content = self._kept(index) or self._fetch_run(index, last)
            pieces.append(content)
            index += -(-len(content) // PAGE_BYTES)
        start = offset - first * PAGE_BYTES
        return b"".join(pieces)[start : start + length]

    def _page(self, index: int) -> bytes:
        return self._kept(index) or self._fetch_run(index, index)

    def _kept(self, index: int) -> bytes | None:
        page = self._pages.get(index)
        if page is not None:
            self._pages.move_to_end(index)
        return page

    def _fetch_run(self, first: int, last: int) -> bytes:
        """The pages from ``first`` that are not kept, as many as one call may bring."""
        count = 1
        while count < MAX_FETCH_BYTES // PAGE_BYTES and first + count <= last:
            if first + count in self._pages:
                break
            count += 1
        offset = first * PAGE_BYTES
        length = min(count * PAGE_BYTES, self.size_bytes - offset)
        if self.reads >= self._budget.reads:
            raise BudgetExhausted(f"more than {self._budget.reads} reads")
        if self.read_bytes + length > self._budget.read_bytes:
            raise BudgetExhausted(f"more than {self._budget.read_bytes >> 20} MiB read")
        self.reads += 1
        self.read_bytes += length
        content = self._fetch(offset, length)
        for index in range(count):
            self._pages[first + index] = content[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
        while len(self._pages) > MAX_KEPT_PAGES:
            self._pages.popitem(last=False)
        return content
