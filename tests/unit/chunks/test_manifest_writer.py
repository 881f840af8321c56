"""Manifests as they are written, read by the reader of manifests."""

from __future__ import annotations

import pytest
from blake3 import blake3

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.entry_rows import EntryRows
from imsd.chunks.index import Codec, Location
from imsd.chunks.manifest_reader import open_manifest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.stored_size import StoredSize
from imsd.contract import Conflict, Unavailable
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import World

DIGEST = "b3t:" + "ab" * 32
STRIDE = 128 << 10


def entry(number: int, distinct: int = 1 << 40) -> ChunkEntry:
    content = number % distinct
    digest = blake3(content.to_bytes(8, "little")).digest()
    # Digests may end in zero bytes, which careless code strips.
    digest = digest[:30] + bytes(2) if content % 7 == 0 else digest
    pack, offset, stored = f"{content % 3:032x}", content * 10 % 1_000_000, 900 + content % 50
    place = Location(pack, offset, stored, 4096, Codec.ZSTD, digest[16:])
    return ChunkEntry(number * STRIDE, 4096, digest, place)


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 10_000])
async def test_what_is_written_is_read(pool: DecodePool, count: int) -> None:
    world = World(pool)
    entries = [entry(number) for number in range(count)]
    size = count * STRIDE + 512
    async with ManifestWriter(world.target) as writer:
        for start in range(0, count, 1000):
            await writer.add(entries[start : start + 1000])
        manifest = await writer.commit(size, DIGEST)
    reader = await open_manifest(world.store, manifest.manifest_id, pool)
    assert (reader.size_bytes, reader.chunk_count) == (size, count)
    assert reader.tree_digest == bytes.fromhex("ab" * 32)
    assert reader.pack_ids == manifest.packs
    found = []
    for page in range(reader.page_count):
        part = reader.guest_range(page)
        async with (
            reader.content.source.fetching([reader.content.page_range(page)]),
            reader.locations.source.fetching([reader.locations.page_range(page)]),
        ):
            found += reader.chunks(part.offset, part.length)
    assert [
        ChunkEntry(
            chunk.start,
            chunk.length,
            chunk.digest,
            Location(
                reader.pack_ids[chunk.pack],
                chunk.offset,
                chunk.stored_length,
                chunk.length,
                Codec(chunk.codec),
                chunk.check,
            ),
        )
        for chunk in found
    ] == entries


async def test_the_row_precedes_the_bytes_and_stays_until_the_image_is_published(pool: DecodePool) -> None:
    world = World(pool)
    async with ManifestWriter(world.target, "ab" * 16) as writer:
        assert world.index.manifests["ab" * 16].state == "writing"
        await writer.commit(0, DIGEST)
    assert world.index.manifests["ab" * 16].state == "writing"
    assert await world.blobs() == [f"manifests/{'ab' * 16}/content", f"manifests/{'ab' * 16}/locations-0"]
    with pytest.raises(Conflict):
        await ManifestWriter(world.target, "ab" * 16).__aenter__()


async def test_leaving_without_commit_leaves_no_blob(pool: DecodePool) -> None:
    world = World(pool)
    async with ManifestWriter(world.target) as writer:
        await writer.add([entry(number) for number in range(5000)])
    assert await world.blobs() == []
    assert (await world.store.usage()).used_bytes == 0


async def test_a_store_that_fails_for_the_second_blob_leaves_no_ingest_open(pool: DecodePool) -> None:
    world = World(
        pool, FaultyStore(MemoryStore(), Fault(call=Call.BEGIN, kind=FaultKind.RAISE_BEFORE, skip=1))
    )
    with pytest.raises(Unavailable):
        async with ManifestWriter(world.target):
            pass
    assert await world.blobs() == []


async def test_the_sizes_are_those_of_the_chunks(pool: DecodePool) -> None:
    world = World(pool)
    entries = [entry(number, distinct=1000) for number in range(6000)]
    async with ManifestWriter(world.target) as writer:
        await writer.add(entries)
        manifest = await writer.commit(6000 * STRIDE, DIGEST)
    assert manifest.chunk_count == 6000
    assert manifest.data_size == 6000 * 4096
    assert manifest.stored_size == sum(item.location.stored_length for item in entries[:1000])


async def test_a_digest_that_is_none_is_refused(pool: DecodePool) -> None:
    async with ManifestWriter(World(pool).target) as writer:
        with pytest.raises(ValueError, match="tree digest"):
            await writer.commit(0, "sha256:00")


def test_the_stored_size_of_many_chunks_is_estimated_in_bounded_memory() -> None:
    size = StoredSize(max_sample=4096)
    entries = [entry(number, distinct=100_000) for number in range(200_000)]
    for start in range(0, len(entries), 4096):
        size.add(EntryRows.of(entries[start : start + 4096]))
    exact = sum(item.location.stored_length for item in entries[:100_000])
    assert abs(size.size_bytes - exact) < 0.05 * exact


def test_the_stored_size_of_some_chunks_is_exact() -> None:
    size = StoredSize(max_sample=4096)
    entries = [entry(number, distinct=4096) for number in range(10_000)]
    size.add(EntryRows.of(entries))
    size.add(EntryRows.of(entries))
    assert size.size_bytes == sum(item.location.stored_length for item in entries[:4096])
