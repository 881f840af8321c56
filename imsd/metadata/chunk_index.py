"""The chunk index in SQL: which chunks and packs exist, and who holds them.

The rules are told in `imsd.chunks.index`; two invariants carry them here:

* A row of `chunk` belongs to a pack that is `live`: `commit_pack` makes the pack live with its first rows
  and checks that it still is with every further batch; `condemn` deletes the rows with the state.
* A pack is condemned only in a transaction that sees no reference to it, and a reference is made only in
  a transaction that sees the pack live. There is one writer, so one of the two comes first.

What is done inside a transaction is in `chunk_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import ChunkIndex, Doomed, Holder, HolderKind, IndexedChunk, Location

from . import chunk_rows
from .chunk_rows import MAX_DIGESTS
from .database import Database
from .rows import in_batches
from .tables import manifest, pack

# Other writers wait for this many insertions at most.
ROWS_PER_TRANSACTION = 2000

# Condemning a pack deletes its index rows: 500 of them on average, 16,384 at most.
PACKS_PER_TRANSACTION = 8

# Condemning a manifest deletes its references: a pack each, 2,000 for a disk of 120 GiB.
MANIFESTS_PER_TRANSACTION = 16


class SqlChunkIndex(ChunkIndex):
    """Fulfils `ChunkIndex` on a `Database`; ``clock`` gives the time of new rows."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def begin_pack(self, holder: Holder, pack_id: str, store: str) -> None:
        await self._database.run(chunk_rows.begin, pack, holder, pack_id, store, self._clock())

    async def commit_pack(
        self, holder: Holder, domain: str, pack_id: str, size_bytes: int, chunks: Sequence[IndexedChunk]
    ) -> None:
        run = self._database.run
        await run(chunk_rows.make_live, holder, domain, pack_id, size_bytes, chunks[:ROWS_PER_TRANSACTION])
        for batch in in_batches(chunks[ROWS_PER_TRANSACTION:], ROWS_PER_TRANSACTION):
            await run(chunk_rows.add_chunks, holder, domain, pack_id, batch)

    async def find(
        self, holder: Holder, store: str, domain: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, Location]:
        if len(digests) > MAX_DIGESTS:
            raise ValueError(f"{len(digests)} digests in one look-up, {MAX_DIGESTS} are allowed")
        return await self._database.run(chunk_rows.find, holder, store, domain, digests) if digests else {}

    async def begin_manifest(self, holder: Holder, manifest_id: str, store: str) -> None:
        await self._database.run(chunk_rows.begin, manifest, holder, manifest_id, store, self._clock())

    async def hold_packs_of(self, holder: Holder, manifest_id: str) -> None:
        await self._database.run(chunk_rows.hold_packs_of, holder, manifest_id)

    async def release(self, holder: Holder) -> None:
        await self._database.run(chunk_rows.release, holder)

    async def condemn(self, store: str, limit: int = 1000) -> tuple[Sequence[Doomed], Sequence[Doomed]]:
        await self._condemn(manifest, store, limit, MANIFESTS_PER_TRANSACTION)
        await self._condemn(pack, store, limit, PACKS_PER_TRANSACTION)
        async with self._database.reading() as c:
            return (
                await c.run_sync(chunk_rows.condemned, manifest, store, limit),
                await c.run_sync(chunk_rows.condemned, pack, store, limit),
            )

    async def distrust(self, packs: Iterable[str]) -> None:
        for batch in in_batches(list(packs)):
            await self._database.run(chunk_rows.distrust, batch)

    async def forget(self, manifests: Iterable[str], packs: Iterable[str]) -> None:
        for table, ids in ((manifest, manifests), (pack, packs)):
            for batch in in_batches(list(ids)):
                await self._database.run(chunk_rows.forget, table, batch)

    async def known(self, manifests: Sequence[str], packs: Sequence[str]) -> tuple[set[str], set[str]]:
        async with self._database.reading() as c:
            return (
                await c.run_sync(chunk_rows.known, manifest, manifests),
                await c.run_sync(chunk_rows.known, pack, packs),
            )

    async def hold_manifest(self, holder: Holder, manifest_id: str) -> str:
        return await self._database.run(chunk_rows.hold_manifest, holder, manifest_id)

    async def _condemn(self, table: Table, store: str, limit: int, per_transaction: int) -> None:
        # The scan for what nobody holds reads a snapshot, so that writers need not wait for it; each
        # batch is looked at again in the transaction that condemns it.
        async with self._database.reading() as c:
            candidates = await c.run_sync(chunk_rows.held_by_nobody, table, store, limit)
        for batch in in_batches(candidates, per_transaction):
            await self._database.run(chunk_rows.condemn, table, batch)


# -- inside a transaction of the core -----------------------------------------------------------------


async def publish_manifest(
    c: AsyncConnection, *, manifest_id: str, writer: Holder, image_id: str, packs: Collection[str]
) -> None:
    """Make a written manifest live and the image its holder, in the transaction that makes the image active.

    The writer's references to ``packs``, those the manifest lists, become the manifest's; others stay
    the writer's until it is released. Raises Conflict for a stale fence, a manifest that is not being
    written by ``writer``, or a pack that is not live or not referenced by ``writer``.
    """
    image = Holder(HolderKind.IMAGE, image_id)
    await c.run_sync(chunk_rows.publish_manifest, manifest_id, writer, image, packs)


async def switch_manifest(
    c: AsyncConnection,
    *,
    from_manifest: str,
    to_manifest: str,
    writer: Holder,
    packs: Collection[str],
    image_ids: Collection[str],
) -> None:
    """As `publish_manifest`, for images that hold another manifest of the same disk and let go of it.

    What holds the other one beside them still does. Raises Conflict, also when one of the images (at
    least one) does not hold it.
    """
    await c.run_sync(chunk_rows.switch_manifest, from_manifest, to_manifest, writer, packs, image_ids)


async def hold_manifest(c: AsyncConnection, holder: Holder, manifest_id: str) -> None:
    """Let ``holder`` hold a live manifest, too. Raises NotFound, and Conflict for a stale fence."""
    await c.run_sync(chunk_rows.hold_manifest, holder, manifest_id)


async def release_holder(c: AsyncConnection, holder: Holder) -> None:
    """Drop every reference and hold of ``holder``, whatever its fence."""
    await c.run_sync(chunk_rows.release, holder)


async def copy_references(c: AsyncConnection, from_holder: Holder, to_holder: Holder) -> None:
    """Let ``to_holder`` hold all that ``from_holder`` holds, too. Raises Conflict for a stale fence."""
    await c.run_sync(chunk_rows.copy_references, from_holder, to_holder)


async def release_readers(c: AsyncConnection) -> None:
    """Drop the holds of all readers: at the start of the daemon none of them lives any more."""
    await c.run_sync(chunk_rows.release_readers)
