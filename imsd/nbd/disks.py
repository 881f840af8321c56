"""The disks that attachments read: one for each manifest, however many attachments it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count

from imsd.chunks.chunk_reader import ChunkReader, open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import ByteBudget
from imsd.chunks.index import content_blob, locations_blob
from imsd.contract import BlobId, BlobStore, FailedPrecondition

from .cached_store import CountedStore, FetchedOnce
from .description import Description
from .disk import Disk, DiskSource, DiskStats, Memory

# What is damaged is taken from the cache and fetched anew, so often at most.
DISTRUST_SECONDS = 60.0

# How long a disk that was moved waits for those who read in its old place: less than a daemon for its answer.
QUIET_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """The stores. ``get(name)``: the open one; raises Unavailable, NotFound (no such store is configured).

    ``is_kept(name)``: whether its bytes are kept on the disk of this machine.
    """

    get: Callable[[str], Awaitable[BlobStore]]
    is_kept: Callable[[str], bool]


@dataclass(slots=True)
class _Used:
    disk: Disk
    users: int = 0


class Disks:
    def __init__(self, stores: StoreAccess, memory: Memory, fetched: FetchedOnce | None) -> None:
        self.memory = memory
        self._stores = stores
        self._fetched = fetched
        self._disks: dict[Description, _Used] = {}
        self._budgets: dict[str, ByteBudget] = {}
        self._numbers = count()
        self._distrusting = asyncio.Lock()
        self._distrusted: dict[BlobId, float] = {}

    def is_busy(self) -> bool:
        """Whether some client waits for bytes."""
        return any(used.disk.is_busy for used in self._disks.values())

    def is_kept(self, store: str) -> bool:
        """Whether what is fetched of the store is kept on the disk."""
        return self._fetched is not None and self._stores.is_kept(store)

    def acquire(self, description: Description, cipher: ChunkCipher | None) -> Disk:
        """The disk; whoever acquires it releases it. Nothing is opened."""
        key = _key(description)
        used = self._disks.get(key)
        if used is None:
            used = self._disks[key] = _Used(self._made(description, cipher))
        used.users += 1
        return used.disk

    async def release(self, description: Description, disk: Disk, *, is_read: bool = False) -> None:
        """Let go of ``disk``; with its last user it is closed.

        ``is_read``: clients may wait for something of it, and get it, unless that takes too long.
        """
        key = _key(description)
        used = self._disks[key]
        used.users -= 1
        if used.users:
            return
        del self._disks[key]
        if is_read:
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await disk.quiet()
        await disk.close()

    def _made(self, description: Description, cipher: ChunkCipher | None) -> Disk:
        stats = DiskStats()
        pool = self.memory.pool
        is_kept = self.is_kept(description.store)

        async def open_reader() -> ChunkReader:
            store = await self._stores.get(description.store)
            counted = CountedStore(store, self._fetched if is_kept else None, stats)
            opening = open_chunk_reader(counted, description.manifest_id, pool, cipher=cipher)
            async with opening as reader:
                _require_described(reader, description)
            return reader  # it holds nothing that would have to be closed

        manifest = (content_blob(description.manifest_id), locations_blob(description.manifest_id))

        async def distrust(packs: Collection[BlobId], since: float) -> bool:
            return is_kept and await self._forgotten((*manifest, *packs), since)

        budget = self._budgets.setdefault(description.store, ByteBudget(pool.budget.limit // 2))
        source = DiskSource(open_reader, distrust, stats, budget)
        return Disk(next(self._numbers), description.size_bytes, source, self.memory)

    async def _forgotten(self, blobs: Sequence[BlobId], since: float) -> bool:
        """Whether the cache had any of them, or has lost one ``since``.

        Each is taken from it now and then only: it may be the store that has it so.
        """
        assert self._fetched is not None
        async with self._distrusting:
            now = time.monotonic()
            before = {blob: at for blob, at in self._distrusted.items() if now - at < DISTRUST_SECONDS}
            doubtful = [blob for blob in blobs if blob not in before]
            self._distrusted = before | dict.fromkeys(doubtful, now)
            was_kept = [await self._fetched.forget(blob) for blob in doubtful]
        return any(was_kept) or any(before.get(blob, 0.0) > since for blob in blobs)


def _key(description: Description) -> Description:
    """All that a disk is opened by: who claims something else of its manifest is not given an open one."""
    return replace(description, attachment_id="", export_name="")


def _require_described(reader: ChunkReader, description: Description) -> None:
    """Raises DataLoss: the manifest is that of another disk; FailedPrecondition."""
    reader.require_digest(description.digest)
    if reader.size_bytes != description.size_bytes:
        raise FailedPrecondition(
            f"the disk has {reader.size_bytes} bytes, not {description.size_bytes}",
            field="size_bytes",
            hint="give the size that the image has",
        )
