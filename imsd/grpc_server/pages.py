"""Pages that fit a message: an entry at the limits of every field has tens of KiB, and a page has many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from google.protobuf.message import Message

PageT = TypeVar("PageT", bound=Message)

# Clients take 4 MiB unless they are told otherwise.
MAX_PAGE_BYTES = 2 << 20


async def page_that_fits(
    list_page: Callable[[int], Awaitable[PageT]],
    entries: Callable[[PageT], Iterable[Message]],
    page_size: int,
) -> PageT:
    """The page that ``list_page`` gives for ``page_size`` entries, or for as many as fit a message."""
    page = await list_page(page_size)
    if page.ByteSize() <= MAX_PAGE_BYTES:
        return page
    return await list_page(fitting([entry.ByteSize() for entry in entries(page)]))


def fitting(sizes: Iterable[int]) -> int:
    """How many entries of these sizes fit a page; one always does."""
    count = total = 0
    for size in sizes:
        total += size
        if count and total > MAX_PAGE_BYTES:
            break
        count += 1
    return count
