"""Moves a stored disk: its chunks, as they are stored, into new packs, and a new manifest that lists them.

Nothing is decoded, so no key is needed; what is read is compared with the check of each chunk, so damage
does not travel on. The new manifest has the content and digest of the old one, which stays as it is: who
reads it is not disturbed, and it goes when nobody holds it.

* *To another store*: all chunks. What the store has of the domain already is not copied again.
* *Within a store* (repacking): the chunks of some packs, all others stay where they are. Those packs answer
  no look-up any more, so that nothing new comes to depend on them.

A run that was interrupted, and a killed one, is simply done again: the chunks it had copied are found, as by
any ingest, as long as their holder lives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from imsd.contract import BlobStore, DataLoss

from .codec import EncodedChunk, check_of
from .decode_pool import DecodePool
from .entry import ChunkEntry
from .entry_rows import EntryRows, Rows
from .index import Codec, Location
from .lookup import ChunkLookup
from .manifest_reader import ManifestReader, StoredChunk
from .manifest_writer import WrittenManifest
from .pack_source import PackSource
from .pack_writer import IngestTarget, PackWriter, new_random_id
from .relocated_manifest import RelocatedManifest
from .render import PIECE_COST_BYTES, in_order
from .store_read import LOST_HINT

# Stored bytes that are read at once; with the gaps between them no more than `PIECE_COST_BYTES`.
BATCH_BYTES = PIECE_COST_BYTES // 2


@dataclass(frozen=True, slots=True)
class Moving:
    """What is moved: a manifest that the caller holds, in its store; only chunks of ``packs``, if given."""

    store: BlobStore
    manifest: ManifestReader
    packs: frozenset[str] | None = None

    def moves(self, chunk: StoredChunk) -> bool:
        return self.packs is None or self.manifest.pack_ids[chunk.pack] in self.packs


@dataclass(frozen=True, slots=True)
class Relocated:
    """The new manifest, durable and not published. ``copied_bytes``: stored bytes of the chunks copied."""

    written: WrittenManifest
    copied_bytes: int


async def relocate(
    moving: Moving,
    pool: DecodePool,
    target: IngestTarget,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    new_id: Callable[[], str] = new_random_id,
) -> Relocated:
    """Copy chunks to ``target``, which is the manifest's own store if only some packs are left.

    ``on_progress`` is told the plain bytes of all chunks that have their new place, in the end the data size.

    The target's holder references every pack of the new manifest afterwards, as `publish_manifest` wants
    it. Raises DataLoss for a chunk that is missing or damaged, Conflict for a stale fence, NotFound for a
    manifest that is not live, and what the stores raise.
    """
    if moving.packs is not None:
        await target.index.hold_packs_of(target.holder, moving.manifest.manifest_id)
        await target.index.distrust(moving.packs)
    run = Relocation(moving, pool, target, on_progress, new_id)
    try:
        async with RelocatedManifest(moving.store, moving.manifest, target, new_id()) as moved:
            for number in range(moving.manifest.page_count):
                await moved.add_page(*await run.move_page(number))
            await run.writer.flush()
            written = await moved.commit(pool)
    finally:
        await run.writer.abort()
    return Relocated(written, run.writer.new_size)


class Relocation:
    """One run of `relocate`: page by page of the manifest."""

    def __init__(
        self,
        moving: Moving,
        pool: DecodePool,
        target: IngestTarget,
        on_progress: Callable[[int], None],
        new_id: Callable[[], str],
    ) -> None:
        self.writer = PackWriter(target, new_id)
        self._moving = moving
        self._manifest = moving.manifest
        self._pool = pool
        self._on_progress = on_progress
        self._lookup = ChunkLookup(target.index, target.store_name, target.domain, target.holder)
        self._old = PackSource(moving.store, moving.manifest.pack_ids)
        self._done_bytes = 0

    async def move_page(self, number: int) -> tuple[Rows, EntryRows]:
        """The content of a page as it was read, and where its chunks lie now."""
        guest = self._manifest.guest_range(number)
        chunks = await self._pool.run(self._manifest.chunks, guest.offset, guest.length)
        places = await self._places(chunks)
        entries = [
            ChunkEntry(chunk.start, chunk.length, chunk.digest, self._place(chunk, places))
            for chunk in chunks
        ]
        content = await self._pool.run(self._manifest.content.rows, number)
        return content, EntryRows.of(entries)

    async def _places(self, chunks: Sequence[StoredChunk]) -> Mapping[bytes, Location]:
        """New places of those chunks that move."""
        moving = {chunk.digest: chunk for chunk in chunks if self._moving.moves(chunk)}
        places = await self._known(moving)
        left = [chunk for digest, chunk in moving.items() if digest not in places]
        done = self._done_bytes + sum(chunk.length for chunk in chunks)
        self._advance(done - sum(chunk.length for chunk in left))
        reads = (partial(self._read, batch) for batch in _batches(left))
        async with aclosing(in_order(self._pool, reads, lambda _: PIECE_COST_BYTES)) as batches:
            async for batch in batches:
                places |= await self.writer.append(batch)
                self._advance(self._done_bytes + sum(chunk.length for chunk in batch))
                del batch  # or it would stay in memory, uncounted, until the next one is there
        return places

    async def _known(self, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Where the target has them; a place that is to be left is none."""
        places = {digest: place for digest in digests if (place := self.writer.find_recent(digest))}
        unknown = [digest for digest in digests if digest not in places]
        found = await self._lookup.find(unknown) if unknown else {}
        for digest, place in found.items():
            if place.pack_id not in (self._moving.packs or ()):
                places[digest] = place
        return places

    async def _read(self, chunks: Sequence[StoredChunk]) -> list[EncodedChunk]:
        return await self._pool.run(self._checked, chunks)

    def _checked(self, chunks: Sequence[StoredChunk]) -> list[EncodedChunk]:
        """The chunks as they are stored. Raises `NeedBytes`, DataLoss."""
        self._old.require([self._old.place(chunk) for chunk in chunks])
        return [self._encoded(chunk) for chunk in chunks]

    def _encoded(self, chunk: StoredChunk) -> EncodedChunk:
        place = self._old.place(chunk)
        stored = self._old.read(place.offset, place.length)
        if check_of(stored) != chunk.check:
            raise DataLoss(
                f"the chunk at guest offset {chunk.start} ({chunk.length} bytes) is damaged in blob "
                f"{self._old.blob(chunk)} at byte {chunk.offset}: its bytes are not those that were written",
                hint=LOST_HINT,
            )
        how = chunk.check, chunk.first_length, chunk.first_stored
        return EncodedChunk(chunk.digest, chunk.length, Codec(chunk.codec), stored, *how)

    def _place(self, chunk: StoredChunk, places: Mapping[bytes, Location]) -> Location:
        """Its new place, or the one where it stays."""
        if self._moving.moves(chunk):
            return places[chunk.digest]
        return Location(
            self._manifest.pack_ids[chunk.pack],
            chunk.offset,
            chunk.stored_length,
            chunk.length,
            Codec(chunk.codec),
            chunk.check,
            chunk.first_length,
            chunk.first_stored,
        )

    def _advance(self, done_bytes: int) -> None:
        self._done_bytes = done_bytes
        self._on_progress(done_bytes)


def _batches(chunks: Sequence[StoredChunk]) -> Iterator[list[StoredChunk]]:
    """Chunks of at most `BATCH_BYTES` stored bytes together."""
    batch: list[StoredChunk] = []
    size = 0
    for chunk in chunks:
        if batch and size + chunk.stored_length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += chunk.stored_length
    if batch:
        yield batch
