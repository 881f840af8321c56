"""Chunks that are named: what is read for them is bounded by what is claimed of them."""

from __future__ import annotations

import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.known_chunks import KnownChunks, NamedChunk, proof_of
from imsd.chunks.manifest_reader import StoredChunk, open_manifest
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import MIB, SparseDisk, World, noise

KEY = bytes(range(32))
DISK = SparseDisk(4 * MIB, {0: noise(1, 3 * MIB)})


@pytest.fixture
async def world(pool: DecodePool) -> World:
    return World(pool, FaultyStore(MemoryStore()))


async def chunks_of(world: World) -> list[StoredChunk]:
    _, written = await world.store_disk(DISK)
    manifest = await open_manifest(world.store, written.manifest_id, world.pool)
    return list(await world.pool.run(manifest.chunks, 0, DISK.size_bytes))


def named(chunk: StoredChunk, length: int) -> NamedChunk:
    content = DISK.content()[chunk.start : chunk.end]
    return NamedChunk(chunk.digest, length, proof_of(content, KEY))


async def test_what_is_proved_is_read(world: World) -> None:
    chunks = await chunks_of(world)
    found = await KnownChunks(world.target, world.pool).read([named(c, c.length) for c in chunks], KEY)
    assert found == [DISK.content()[c.start : c.end] for c in chunks]


async def test_nothing_is_read_of_a_chunk_with_another_length(world: World) -> None:
    chunks = await chunks_of(world)
    assert isinstance(world.store, FaultyStore)
    world.store.add(Fault(call=Call.READ, kind=FaultKind.RAISE_BEFORE, times=None))
    found = await KnownChunks(world.target, world.pool).read([named(c, 1) for c in chunks], KEY)
    assert found == [None] * len(chunks)
