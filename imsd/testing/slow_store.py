"""A wrapper that makes a store slow: the distance of a bucket, the rate of a busy disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from imsd.contract import BlobId, BlobStore, Buffer, ByteRange, Ingest, StoredBlob, StoreUsage


class SlowStore(BlobStore):
    """``store``, with ``delay_seconds`` before each call and at most ``bytes_per_second`` for each call.

    The rate holds for one call; calls that run at once do not share it. ``sleep`` can be a clock of a test.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        delay_seconds: float = 0.0,
        bytes_per_second: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.capabilities = store.capabilities
        self._store = store
        self._delay_seconds = delay_seconds
        self._bytes_per_second = bytes_per_second
        self._sleep = sleep

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        await self.pause()
        async with self._store.begin(blob) as ingest:
            yield SlowIngest(self, ingest)

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        await self.pause(sum(wanted.length for wanted in ranges))
        return await self._store.read(blob, ranges)

    async def stat(self, blob: BlobId) -> StoredBlob:
        await self.pause()
        return await self._store.stat(blob)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        await self.pause()
        async for stored in self._store.list(prefix, after):
            yield stored

    async def delete(self, blob: BlobId) -> None:
        await self.pause()
        await self._store.delete(blob)

    async def usage(self) -> StoreUsage:
        await self.pause()
        return await self._store.usage()

    async def pause(self, size_bytes: int = 0) -> None:
        """Wait as long as a call that moves ``size_bytes`` takes."""
        transfer_seconds = size_bytes / self._bytes_per_second if self._bytes_per_second else 0.0
        await self._sleep(self._delay_seconds + transfer_seconds)


class SlowIngest(Ingest):
    """An ingest whose calls take as long as those of its store."""

    def __init__(self, store: SlowStore, ingest: Ingest) -> None:
        self._store = store
        self._ingest = ingest

    async def write(self, buffers: Sequence[Buffer]) -> None:
        await self._store.pause(sum(memoryview(buffer).nbytes for buffer in buffers))
        await self._ingest.write(buffers)

    async def commit(self) -> StoredBlob:
        await self._store.pause()
        return await self._ingest.commit()
