"""Writes packs: immutable blobs of chunks, filled in the order of the calls.

A pack is sealed when it is full; committing it overlaps with filling the next one. Its row precedes
its first byte, its chunks become findable when it is durable, and until then `find_recent` knows them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    Buffer,
    DataLoss,
    Ingest,
    NotFound,
    Unavailable,
    settle,
)

from .cipher import DOMAIN_PREFIX, ChunkCipher
from .codec import EncodedChunk
from .index import ChunkIndex, Holder, IndexedChunk, Location, pack_blob
from .layout import MAX_PACK_BYTES, MAX_PACK_CHUNKS


def new_random_id() -> str:
    """An id for a pack or a manifest: 32 hex digits."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class IngestTarget:
    """Where an ingest goes: the store, the index and its dedup domain, and on whose behalf.

    ``cipher``: that of an encrypted image, whose domain is its own; chunks move there without it, but nothing
    new is stored.
    """

    store: BlobStore
    store_name: str
    index: ChunkIndex
    domain: str
    holder: Holder
    cipher: ChunkCipher | None = None

    def require_cipher(self) -> None:
        """Before something is stored. Raises ValueError unless the cipher is that of the domain."""
        if self.cipher.domain != self.domain if self.cipher else self.domain.startswith(DOMAIN_PREFIX):
            raise ValueError(f"what is stored in the domain {self.domain} is not sealed by {self.cipher}")


@dataclass(slots=True)
class _Pack:
    id: str
    ingest: Ingest
    undo: AsyncExitStack  # leaves the ingest
    size_bytes: int = 0
    locations: dict[bytes, Location] = field(default_factory=dict)

    def has_room(self, chunk: EncodedChunk) -> bool:
        has_bytes = self.size_bytes + len(chunk.stored) <= MAX_PACK_BYTES
        return has_bytes and len(self.locations) < MAX_PACK_CHUNKS

    def place(self, chunk: EncodedChunk) -> Location:
        size = len(chunk.stored)
        location = Location(
            self.id,
            self.size_bytes,
            size,
            chunk.length,
            chunk.codec,
            chunk.check,
            chunk.first_length,
            chunk.first_stored,
        )
        self.locations[chunk.digest] = location
        self.size_bytes += size
        return location


class PackWriter:
    """Use by one task at a time, then `flush`; `abort` in any case. ``new_size``: bytes written so far.

    After an exception only `abort` may be called.
    """

    def __init__(self, target: IngestTarget, new_id: Callable[[], str] = new_random_id) -> None:
        self._target = target
        self._new_id = new_id
        self._open: _Pack | None = None
        self._sealed: _Pack | None = None  # being committed by ...
        self._commit: asyncio.Task[None] | None = None
        self.new_size = 0

    def find_recent(self, digest: bytes) -> Location | None:
        """Where a chunk lies that was written, but is not in the index yet."""
        for pack in (self._open, self._sealed):
            if pack and (location := pack.locations.get(digest)):
                return location
        return None

    async def append(self, chunks: Sequence[EncodedChunk]) -> dict[bytes, Location]:
        """Write ``chunks`` and say where they lie; their bytes may be reused afterwards.

        One that `find_recent` knows already is not written again. Raises what the store and the index raise.
        """
        places: dict[bytes, Location] = {}
        buffers: list[Buffer] = []
        for chunk in chunks:
            place = self.find_recent(chunk.digest)
            if place is None:
                if self._open and not self._open.has_room(chunk):
                    await self._write(buffers)
                    buffers = []
                    await self.seal()
                place = (self._open or await self._begin()).place(chunk)
                buffers.append(chunk.stored)
            places[chunk.digest] = place
        await self._write(buffers)
        return places

    async def seal(self) -> asyncio.Task[None] | None:
        """Start to commit the open pack, once the one before it is committed.

        Returns the commit, for whom it matters when it ends, and None if there is nothing to commit.
        """
        await self._wait_for_commit()
        if self._open is None:
            return None
        self._sealed, self._open = self._open, None
        self._commit = asyncio.create_task(self._commit_pack(self._sealed))
        return self._commit

    async def flush(self) -> None:
        """Commit everything: when this returns, it is durable and in the index."""
        await self.seal()
        await self._wait_for_commit()

    async def abort(self) -> None:
        """Discard what is not committed; nothing is left running. Not interrupted by cancellation."""
        await settle(asyncio.create_task(self._discard()))

    async def _discard(self) -> None:
        if self._commit:
            self._commit.cancel()
            await asyncio.wait([self._commit])
            if not self._commit.cancelled():
                self._commit.exception()  # retrieved here, or asyncio logs it as lost
        async with AsyncExitStack() as discarding:  # the one also when the other fails
            for pack in (self._sealed, self._open):
                if pack:
                    discarding.push_async_callback(pack.undo.aclose)
        self._sealed = self._open = self._commit = None

    async def _begin(self) -> _Pack:
        pack_id = self._new_id()
        target = self._target
        await target.index.begin_pack(target.holder, pack_id, target.store_name)
        undo = AsyncExitStack()
        ingest = await undo.enter_async_context(target.store.begin(pack_blob(pack_id)))
        self._open = _Pack(pack_id, ingest, undo)
        return self._open

    async def _write(self, buffers: Sequence[Buffer]) -> None:
        if buffers and self._open:
            await self._open.ingest.write(buffers)
            self.new_size += sum(len(buffer) for buffer in buffers)

    async def _wait_for_commit(self) -> None:
        if self._commit:
            await asyncio.wait([self._commit])  # unlike awaiting it, does not cancel it with us
            self._commit.result()
            self._sealed = self._commit = None

    async def _commit_pack(self, pack: _Pack) -> None:
        target = self._target
        async with pack.undo:
            await commit_blob(target.store, pack_blob(pack.id), pack.ingest, pack.size_bytes)
        chunks = [IndexedChunk(digest, location) for digest, location in pack.locations.items()]
        await target.index.commit_pack(target.holder, target.domain, pack.id, pack.size_bytes, chunks)


async def commit_blob(store: BlobStore, blob: BlobId, ingest: Ingest, size_bytes: int) -> None:
    """Commit an ingest of ``size_bytes`` under an id that nobody else uses.

    When the outcome is in doubt, the store is asked what it has. Raises what `Ingest.commit` raises,
    and DataLoss when the blob has another size.
    """
    try:
        stored = await ingest.commit()
    except (AlreadyExists, Unavailable) as doubt:
        try:
            stored = await store.stat(blob)
        except (NotFound, Unavailable):
            raise doubt from None
        if stored.size_bytes != size_bytes:
            raise
    if stored.size_bytes != size_bytes:
        raise DataLoss(f"blob {blob} has {stored.size_bytes} bytes, {size_bytes} were written")


async def settle_exit(undo: AsyncExitStack) -> None:
    """Undo to the end, even when the task is cancelled again meanwhile."""
    await settle(asyncio.create_task(undo.aclose()))
