"""A store whose bytes are kept on the disk of this machine: each is fetched once, whoever asks at once.

What is fetched is with its reader at once, and is written to the disk behind it; until that is done, others
who want some of it wait, and then find it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from imsd.contract import BlobId, BlobStore, ByteRange, Ingest, StoredBlob, StoreUsage, run_in_pool

from .disk import DiskStats
from .stored_bytes import StoredBytes

# Of fetched bytes that are not written yet; whoever fetches more waits for the disk.
MAX_UNWRITTEN_BYTES = 16 << 20


@dataclass(eq=False, slots=True)
class _Fetch:
    ranges: Sequence[ByteRange]
    is_over: asyncio.Event


class FetchedOnce:
    """What is fetched now, of all stores; and the threads that work on the disk."""

    def __init__(self, cache: StoredBytes) -> None:
        self.cache = cache
        self._fetches: dict[BlobId, list[_Fetch]] = {}
        self._unwritten_bytes = 0
        self._writing: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(2, "cache")

    async def read(
        self, store: BlobStore, blob: BlobId, ranges: Sequence[ByteRange], stats: DiskStats
    ) -> list[bytes]:
        """As of `BlobStore`."""
        found: dict[ByteRange, bytes] = {}
        has_looked = False
        while True:
            missing = [wanted for wanted in ranges if wanted not in found]
            if missing and (others := self._others(blob, missing)):
                for other in others:
                    await other.is_over.wait()
                has_looked = False
            elif missing and not has_looked:
                pieces = await run_in_pool(self._pool, self.cache.read, blob, missing)
                found |= {
                    wanted: piece for wanted, piece in zip(missing, pieces, strict=True) if piece is not None
                }
                stats.cached_bytes += sum(len(piece) for piece in pieces if piece is not None)
                has_looked = True
            else:
                break
        if missing:
            pieces_of_store = await self._fetch(store, blob, missing)
            found |= dict(zip(missing, pieces_of_store, strict=True))
            stats.fetched_bytes += sum(map(len, pieces_of_store))
        return [found[wanted] for wanted in ranges]

    async def _fetch(self, store: BlobStore, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        fetch = _Fetch(ranges, asyncio.Event())
        self._fetches.setdefault(blob, []).append(fetch)
        try:
            pieces = await store.read(blob, ranges)
        except BaseException:
            self._end(blob, fetch)
            raise
        writing = asyncio.ensure_future(self._write(blob, fetch, pieces))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        if self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
            await asyncio.shield(writing)
        return pieces

    async def _write(self, blob: BlobId, fetch: _Fetch, pieces: Sequence[bytes]) -> None:
        size = sum(map(len, pieces))
        self._unwritten_bytes += size
        try:
            placed = [(wanted.offset, piece) for wanted, piece in zip(fetch.ranges, pieces, strict=True)]
            await run_in_pool(self._pool, self.cache.write, blob, placed)
        finally:
            self._unwritten_bytes -= size
            self._end(blob, fetch)

    def _end(self, blob: BlobId, fetch: _Fetch) -> None:
        fetch.is_over.set()
        self._fetches[blob].remove(fetch)
        if not self._fetches[blob]:
            del self._fetches[blob]

    def _others(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[_Fetch]:
        """Who fetches some of it now."""
        return [
            fetch
            for fetch in self._fetches.get(blob, ())
            if any(a.offset < b.end and b.offset < a.end for a in fetch.ranges for b in ranges)
        ]

    async def forget(self, blob: BlobId) -> bool:
        """Fetch it anew when it is read next; whether anything of it was kept."""
        for fetch in list(self._fetches.get(blob, ())):
            await fetch.is_over.wait()  # else it would be written after this
        return await run_in_pool(self._pool, self.cache.forget, blob)

    async def written(self) -> None:
        """Wait until what was fetched so far is on the disk."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def close(self) -> None:
        await self.written()
        self._pool.shutdown(wait=True)


class CountedStore(BlobStore):
    """``store`` as one disk reads it. ``fetched``: where its bytes are kept; None: nowhere."""

    def __init__(self, store: BlobStore, fetched: FetchedOnce | None, stats: DiskStats) -> None:
        self._store = store
        self._fetched = fetched
        self._stats = stats

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        if self._fetched is not None and self._fetched.cache.is_usable:
            return await self._fetched.read(self._store, blob, ranges, self._stats)
        pieces = await self._store.read(blob, ranges)
        self._stats.fetched_bytes += sum(map(len, pieces))
        return pieces

    async def stat(self, blob: BlobId) -> StoredBlob:
        return await self._store.stat(blob)

    def begin(self, blob: BlobId) -> AbstractAsyncContextManager[Ingest]:
        return self._store.begin(blob)

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        return self._store.list(prefix, after)

    async def delete(self, blob: BlobId) -> None:
        await self._store.delete(blob)

    async def usage(self) -> StoreUsage:
        return await self._store.usage()
