"""A part of a file that is staged, as a feed: a disk of a package."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import Conflict
from imsd.formats.source import ByteSource

from .feeds import Feed, FeedStep, OpenedFeed, with_zeros
from .limits import MAX_WRITE_BYTES


class SourceFeed(Feed):
    """``mark``: as of an `OpenedFeed`."""

    def __init__(self, pool: DecodePool, file: ByteSource, name: str, mark: str) -> None:
        self._pool = pool
        self._file = file
        self._mark = mark
        self.name = name

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[OpenedFeed]:
        yield _OpenedSource(self._pool, self._file, self._mark, offset)


class _OpenedSource(OpenedFeed):
    def __init__(self, pool: DecodePool, file: ByteSource, mark: str, offset: int) -> None:
        self._pool = pool
        self._file = file
        self._offset = offset
        self.size_bytes = file.size_bytes
        self.mark = mark

    def require_same(self, mark: str) -> None:
        if mark != self.mark:
            raise Conflict("the package is another than before")

    async def steps(self) -> AsyncGenerator[FeedStep, None]:
        size = self._file.size_bytes
        for start in range(self._offset, size, MAX_WRITE_BYTES):
            yield with_zeros(await self._pool.run(self._file.read, start, min(MAX_WRITE_BYTES, size - start)))
