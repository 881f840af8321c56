"""A file that was compressed whole, as a feed of what is in it.

Nothing is remembered of a decompressor: whoever goes on at an offset unpacks from the start, and what comes
before the offset is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import Conflict
from imsd.formats.source import ByteSource
from imsd.formats.unwrap import Unwrapper

from .feeds import Feed, FeedStep, OpenedFeed, with_zeros

# Read of the file at once.
READ_BYTES = 256 << 10
# Taken from the decompressor in one call of a thread; such a call cannot be cancelled.
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WrappedFile:
    """``mark``: as of an `OpenedFeed`."""

    file: ByteSource
    wrapper: str
    name: str
    mark: str


class UnpackFeed(Feed):
    """``places``: taken while a decompressor holds memory."""

    def __init__(
        self, pool: DecodePool, wrapped: WrappedFile, max_size_bytes: int, places: asyncio.Semaphore
    ) -> None:
        self._pool = pool
        self._wrapped = wrapped
        self._max_size_bytes = max_size_bytes
        self._places = places
        self.name = wrapped.name

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[OpenedFeed]:
        async with self._places:
            yield _Unpacking(self._pool, self._wrapped, self._max_size_bytes, offset)


class _Unpacking(OpenedFeed):
    def __init__(self, pool: DecodePool, wrapped: WrappedFile, max_size_bytes: int, offset: int) -> None:
        self._pool = pool
        self._file = wrapped.file
        self._unwrapper = Unwrapper(wrapped.wrapper, max_size_bytes)
        self._offset = offset
        self.size_bytes = None
        self.mark = wrapped.mark

    def require_same(self, mark: str) -> None:
        if mark != self.mark:
            raise Conflict("the packed file is another than before")

    def progress(self, received: int) -> tuple[int, int]:
        return self._unwrapper.taken_bytes, self._file.size_bytes

    async def steps(self) -> AsyncGenerator[FeedStep, None]:
        skip = self._offset
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if skip >= len(piece):
                    skip -= len(piece)
                elif skip:
                    yield memoryview(piece)[skip:]
                    skip = 0
                else:
                    yield with_zeros(piece)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """All of what is inside, not empty. Raises ImageRefused (IMAGE_*, FORMAT_UNSUPPORTED)."""
        for start in range(0, self._file.size_bytes, READ_BYTES):
            length = min(READ_BYTES, self._file.size_bytes - start)
            unpacked = self._unwrapper.feed(await self._pool.run(self._file.read, start, length))
            while batch := await self._pool.run(_take_batch, unpacked):
                for piece in batch:
                    yield piece
        self._unwrapper.finish()


def _take_batch(unpacked: Iterator[bytes]) -> list[bytes]:
    """The next pieces, `BATCH_BYTES` of them or a little more; none at the end."""
    batch, size = [], 0
    for piece in unpacked:
        batch.append(piece)
        size += len(piece)
        if size >= BATCH_BYTES:
            break
    return batch
