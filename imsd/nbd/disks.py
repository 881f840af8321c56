"""The disks that attachments read: one for each manifest, however many attachments it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from imsd.chunks.chunk_reader import ChunkReader, open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import ByteBudget
from imsd.contract import BlobStore, FailedPrecondition

from .cached_store import CountedStore, FetchedOnce
from .description import Description
from .disk import Disk, DiskSource, DiskStats, Memory

_Key = tuple[str, str, str]


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
        self._disks: dict[_Key, _Used] = {}
        self._budgets: dict[str, ByteBudget] = {}
        self._numbers = count()

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

    async def release(self, description: Description, disk: Disk) -> None:
        """Let go of ``disk``; with its last user it is closed, as soon as nobody waits for it."""
        key = _key(description)
        used = self._disks[key]
        used.users -= 1
        if used.users:
            return
        del self._disks[key]
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
                _check_size(reader, description)
            return reader  # it holds nothing that would have to be closed

        budget = self._budgets.setdefault(description.store, ByteBudget(pool.budget.limit // 2))
        return Disk(
            next(self._numbers), description.size_bytes, DiskSource(open_reader, stats, budget), self.memory
        )


def _key(description: Description) -> _Key:
    return description.store, description.manifest_id, description.binding


def _check_size(reader: ChunkReader, description: Description) -> None:
    if reader.size_bytes != description.size_bytes:
        raise FailedPrecondition(
            f"the disk has {reader.size_bytes} bytes, not {description.size_bytes}",
            field="size_bytes",
            hint="give the size that the image has",
        )
