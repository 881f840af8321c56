"""Packs: filled in order, sealed when full, findable when durable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from blake3 import blake3

from imsd.chunks import pack_writer
from imsd.chunks.codec import EncodedChunk
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import Codec, pack_blob
from imsd.chunks.pack_writer import PackWriter
from imsd.contract import ByteRange
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import World, noise


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_writer, "MAX_PACK_BYTES", 1000)
    monkeypatch.setattr(pack_writer, "MAX_PACK_CHUNKS", 5)


def chunk(seed: int, length: int = 100) -> EncodedChunk:
    stored = noise(seed, length)
    digest = blake3(stored).digest()
    return EncodedChunk(digest, length, Codec.RAW, stored, digest[:16])


def ids() -> Iterator[str]:
    for number in range(1, 100):
        yield f"{number:032x}"


async def test_a_chunk_lies_where_append_says(pool: DecodePool) -> None:
    world = World(pool)
    writer = PackWriter(world.target, ids().__next__)
    chunks = [chunk(n, 50 + n) for n in range(20)]
    places = await writer.append(chunks[:7]) | await writer.append(chunks[7:])
    await writer.flush()
    for wanted in chunks:
        place = places[wanted.digest]
        (stored,) = await world.store.read(
            pack_blob(place.pack_id), [ByteRange(place.offset, place.stored_length)]
        )
        assert stored == wanted.stored
    assert writer.new_size == sum(len(c.stored) for c in chunks) == world.stored_bytes()
    assert {digest for *_, digest in world.index.chunks} == {c.digest for c in chunks}


@pytest.mark.usefixtures("small_packs")
async def test_a_pack_is_sealed_by_bytes_and_by_number(pool: DecodePool) -> None:
    world = World(pool)
    writer = PackWriter(world.target, ids().__next__)
    await writer.append([chunk(n, 400) for n in range(3)])
    await writer.append([chunk(n, 10) for n in range(10, 20)])
    await writer.flush()
    sizes = [row.size_bytes for row in world.index.packs.values()]
    assert sizes == [800, 440, 50, 10]


@pytest.mark.usefixtures("small_packs")
async def test_one_call_may_fill_many_packs(pool: DecodePool) -> None:
    world = World(pool)
    writer = PackWriter(world.target, ids().__next__)
    places = await writer.append([chunk(n, 900) for n in range(8)])
    await writer.flush()
    assert len({place.pack_id for place in places.values()}) == len(world.index.packs) == 8


async def test_a_pack_is_findable_only_when_it_is_durable(pool: DecodePool) -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    world = World(pool, store)
    writer = PackWriter(world.target, ids().__next__)
    await writer.append([chunk(1)])
    assert [row.state for row in world.index.packs.values()] == ["writing"], "the row precedes the bytes"
    flushing = asyncio.create_task(writer.flush())
    while not store.hanging:
        await asyncio.sleep(0.001)
    assert world.index.chunks == {}
    assert writer.find_recent(chunk(1).digest) is not None
    store.release()
    await flushing
    assert [row.state for row in world.index.packs.values()] == ["live"]


async def test_filling_goes_on_while_the_pack_before_is_committed(pool: DecodePool) -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    world = World(pool, store)
    writer = PackWriter(world.target, ids().__next__)
    first = await writer.append([chunk(1)])
    await writer.seal()
    second = await asyncio.wait_for(writer.append([chunk(2), chunk(1)]), 5)
    assert second[chunk(1).digest] == first[chunk(1).digest], "a pack under way is known"
    assert second[chunk(2).digest].pack_id != first[chunk(1).digest].pack_id
    store.release()
    await writer.flush()
    assert len(world.index.packs) == 2
    assert world.stored_bytes() == 200


async def test_abort_discards_the_open_and_the_sealed_pack(pool: DecodePool) -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    world = World(pool, store)
    writer = PackWriter(world.target, ids().__next__)
    await writer.append([chunk(1)])
    await writer.seal()
    await writer.append([chunk(2)])
    await writer.abort()
    assert await world.blobs() == []
    assert (await store.usage()).used_bytes == 0
    await writer.abort()
    assert store.hanging == 0


async def test_a_writer_that_got_nothing_leaves_nothing(pool: DecodePool) -> None:
    world = World(pool)
    writer = PackWriter(world.target)
    assert await writer.append([]) == {}
    await writer.flush()
    await writer.abort()
    assert world.index.packs == {}
    assert await world.blobs() == []
