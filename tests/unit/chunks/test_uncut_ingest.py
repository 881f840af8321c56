"""A disk that is not cut by its content: in pieces as long as they can be, zeros left out."""

from __future__ import annotations

import random

import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.index import Codec
from imsd.chunks.ingest import UNCUT, DiskIngest
from imsd.chunks.ingest_state import IngestResult, IngestState
from imsd.chunks.layout import MAX_CHUNK_BYTES
from imsd.chunks.segment import SegmentSink
from imsd.chunks.tree_digest import TreeHasher
from tests.unit.chunks.ingest_world import KIB, MIB, ListSink, SparseDisk, World, noise, outline, text


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool)


def content() -> bytes:
    return (
        text(1, 3 * MIB)
        + bytes(5 * MIB)
        + noise(2, MIB + 300)
        + bytes(40 * KIB)
        + b"\1"
        + bytes(20 * KIB)
        + text(3, 511)
    )


async def stored(world: World, plain: bytes) -> tuple[IngestResult, list[ChunkEntry]]:
    sink = ListSink()
    async with DiskIngest(world.pool, world.target, sink, cutting=UNCUT) as ingest:
        await ingest.write(plain)
        return await ingest.finish(len(plain)), sink.entries


async def test_pieces_are_compressed_long_and_without_zero_runs(world: World) -> None:
    plain = content()
    result, entries = await stored(world, plain)
    hasher = TreeHasher()
    hasher.update(plain)
    assert result.digest == hasher.digest()
    # The noise in the middle does not shrink.
    assert [entry.location.codec for entry in entries[:6]] == [Codec.ZSTD] * 6
    assert Codec.RAW in {entry.location.codec for entry in entries}
    assert [entry.length for entry in entries[:6]] == [MAX_CHUNK_BYTES] * 6
    assert max(entry.length for entry in entries) == MAX_CHUNK_BYTES
    assert result.data_size < len(plain) - 5 * MIB
    position = 0
    for entry in entries:
        assert not any(plain[position : entry.start])
        assert entry.digest
        position = entry.end
    assert not any(plain[position:])


async def test_reading_in_place_gives_the_same_pieces(world: World) -> None:
    plain = content()
    plain += bytes(-len(plain) % 512)
    _, expected = await stored(world, plain)
    pieces = {0: plain[: 3 * MIB], 8 * MIB: plain[8 * MIB :]}
    disk, sink = SparseDisk(len(plain), pieces), ListSink()
    async with DiskIngest(world.pool, world.target, sink, cutting=UNCUT) as ingest:
        await ingest.copy_from(disk)
        await ingest.finish(disk.size_bytes)
    assert outline(sink.entries) == outline(expected)


@pytest.mark.parametrize("seed", range(6))
async def test_restarts_do_not_matter(world: World, seed: int) -> None:
    plain, choose = content(), random.Random(seed)
    result, expected = await stored(world, plain)
    sink, state, committed = SegmentSink(), None, list[ChunkEntry]()
    while True:
        async with DiskIngest(world.pool, world.target, sink, start=state, cutting=UNCUT) as ingest:
            if state:
                await ingest.write(state.undecided)
            end = min(ingest.position + choose.randrange(3 * MIB), len(plain))
            await ingest.write(plain[ingest.position : end])
            if end == len(plain):
                again = await ingest.finish(end)
                break
            state = IngestState.from_bytes((await ingest.checkpoint()).to_bytes())
            committed += sink.take()
    committed += sink.take()
    assert outline(committed) == outline(expected)
    assert again.digest == result.digest
