"""The first entries of a list that comes in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")


async def take(entries: AsyncIterator[T], limit: int) -> list[T]:
    """The first ``limit`` entries; all when ``limit`` is 0."""
    found: list[T] = []
    closing: Any = entries  # an asynchronous generator, which asks for no further page once closed
    async with aclosing(closing):
        async for entry in entries:
            found.append(entry)
            if len(found) == limit:
                break
    return found
