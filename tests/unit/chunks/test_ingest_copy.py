"""Storing whole disks from a block source: everything comes back, nothing is stored twice."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.chunks.chunker import Chunker, scan_blocks
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.disk_digest import digest_blocks
from imsd.chunks.index import Codec
from imsd.chunks.ingest import DiskIngest
from imsd.contract import ByteRange
from imsd.formats.source import Extent
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import GIB, KIB, MIB, ListSink, SparseDisk, World, noise, outline, text


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool)


def mixed_disk(seed: int = 0, size: int = 24 * MIB) -> SparseDisk:
    return SparseDisk(
        size,
        {
            0: noise(seed, 700),
            20 * KIB: text(seed, 5 * MIB),
            6 * MIB: noise(seed + 1, 3 * MIB + 17),
            10 * MIB - 5: b"x",
            17 * MIB: text(seed + 2, 2 * MIB),
            size - 512: noise(seed + 3, 512),
        },
    )


def expected_chunks(content: bytes) -> list[tuple[int, int]]:
    padded = content + bytes(-len(content) % 4096)
    chunker = Chunker()
    chunks = chunker.feed(scan_blocks(memoryview(padded))) + chunker.end()
    return [(first * 4096, min((first + n) * 4096, len(content)) - first * 4096) for first, n in chunks]


@pytest.mark.parametrize(
    "size", [0, 512, 4096, 64 * KIB - 512, 64 * KIB, 64 * KIB + 512, 4 * MIB, 4 * MIB + 512]
)
@pytest.mark.parametrize("is_zero", [False, True])
async def test_disks_of_awkward_sizes_come_back(world: World, size: int, is_zero: bool) -> None:
    disk = SparseDisk(size, {} if is_zero else {0: noise(1, size)})
    result, manifest = await world.store_disk(disk)
    assert result.digest == disk.digest()
    assert await world.read_back(manifest.manifest_id) == disk.content()
    assert result.data_size == manifest.data_size == (0 if is_zero else size)


async def test_a_disk_with_data_text_and_holes_comes_back(world: World) -> None:
    disk = mixed_disk()
    result, manifest = await world.store_disk(disk)
    content = disk.content()
    assert result.digest == disk.digest() == digest_blocks(disk)
    assert await world.read_back(manifest.manifest_id) == content
    assert result.chunk_count == len(expected_chunks(content))
    assert manifest.stored_size == result.new_size == world.stored_bytes()
    assert await world.budget_is_whole()


def piece(kind: str, seed: int, length: int) -> bytes:
    match kind:
        case "noise":
            return noise(seed, length)
        case "text":
            return text(seed, length)
        case _:
            return (b"\0" if kind == "zero" else b"\x55") * length


@st.composite
def disks(draw: st.DrawFn) -> SparseDisk:
    """Small pieces, many of them zero or alike, at places around the sizes that matter."""
    size = draw(st.integers(1, 11 * MIB // 512)) * 512
    steps = st.sampled_from(
        [512, 4096, 28 * KIB, 32 * KIB, 36 * KIB, 64 * KIB, 65 * KIB, MIB, 4 * MIB, 4 * MIB + 512]
    )
    pieces: dict[int, bytes] = {}
    position = draw(st.sampled_from([0, 0, 512, 64 * KIB]))
    for number in range(draw(st.integers(0, 8))):
        length = min(draw(steps), size - position)
        if length <= 0:
            break
        kind = draw(st.sampled_from(["noise", "text", "zero", "same"]))
        pieces[position] = piece(kind, number, length)
        position += length + draw(st.sampled_from([0, 512, 28 * KIB, 32 * KIB, 64 * KIB, MIB + 512, 4 * MIB]))
    return SparseDisk(size, pieces, tells_zeros=draw(st.booleans()))


@settings(max_examples=40)
@given(disks())
def test_chunks_and_digest_depend_on_the_content_alone(disk: SparseDisk) -> None:
    async def ingest() -> None:
        pool = DecodePool(2)
        try:
            world = World(pool)
            sink = ListSink()
            async with DiskIngest(pool, world.target, sink) as ingest:
                await ingest.copy_from(disk)
                result = await ingest.finish(disk.size_bytes)
            content = disk.content()
            assert result.digest == disk.digest() == digest_blocks(disk, threads=1)
            assert [(entry.start, entry.length) for entry in sink.entries] == expected_chunks(content)
            assert await world.budget_is_whole()
        finally:
            pool.close()

    asyncio.run(ingest())


async def test_a_second_ingest_of_the_same_disk_writes_nothing(world: World) -> None:
    disk = mixed_disk()
    first, _ = await world.store_disk(disk)
    packs = await world.blobs("packs/")
    second, manifest = await world.store_disk(disk)
    assert second.new_size == 0
    assert await world.blobs("packs/") == packs
    assert second.digest == first.digest
    assert manifest.stored_size == first.new_size
    assert await world.read_back(manifest.manifest_id) == disk.content()


async def test_a_changed_disk_writes_little_more_than_its_changes(world: World) -> None:
    first = SparseDisk(64 * MIB, {0: noise(1, 20 * MIB)})
    moved = SparseDisk(64 * MIB, {0: noise(2, 40 * KIB), 3 * MIB: noise(1, 20 * MIB)})
    await world.store_disk(first)
    result, _ = await world.store_disk(moved)
    assert 40 * KIB <= result.new_size < 1 * MIB


async def test_chunks_that_repeat_inside_a_disk_are_stored_once(world: World) -> None:
    disk = SparseDisk(64 * MIB, dict.fromkeys(range(0, 60 * MIB, 2 * MIB), noise(1, MIB)))
    result, manifest = await world.store_disk(disk)
    assert result.data_size == 30 * MIB
    assert manifest.stored_size == result.new_size == MIB
    assert await world.read_back(manifest.manifest_id) == disk.content()


async def test_another_domain_finds_nothing(world: World) -> None:
    disk = SparseDisk(MIB, {0: noise(1, MIB)})
    first, _ = await world.store_disk(disk)
    stranger = World(world.pool, world.store, world.index)
    target = stranger.target
    sink = ListSink()
    other = type(target)(target.store, target.store_name, target.index, "project-2", target.holder)
    async with DiskIngest(world.pool, other, sink) as ingest:
        await ingest.copy_from(disk)
        result = await ingest.finish(disk.size_bytes)
    assert result.new_size == first.new_size


async def test_a_disk_that_another_store_has_is_stored_whole(world: World) -> None:
    disk = SparseDisk(4 * MIB, {0: noise(1, MIB), 2 * MIB: text(1, MIB)})
    first, _ = await world.store_disk(disk)
    elsewhere = World(world.pool, index=world.index, store_name="second")
    for new_size in (first.new_size, 0):
        result, manifest = await elsewhere.store_disk(disk)
        assert result.new_size == new_size
        assert await elsewhere.read_back(manifest.manifest_id) == disk.content()


async def test_chunks_that_do_not_shrink_are_stored_as_they_are(world: World) -> None:
    await world.store_disk(SparseDisk(4 * MIB, {0: noise(1, MIB), 2 * MIB: text(1, MIB)}))
    codecs = {place.codec for place in world.index.chunks.values()}
    assert codecs == {Codec.RAW, Codec.ZSTD}
    for place in world.index.chunks.values():
        assert (place.stored_length == place.length) == (place.codec is Codec.RAW)


async def test_every_pack_is_at_most_64_mib_and_held_by_the_job(world: World) -> None:
    result, _ = await world.store_disk(SparseDisk(150 * MIB, {0: noise(1, 150 * MIB)}))
    rows = list(world.index.packs.values())
    assert len(rows) == 3
    assert sum(row.size_bytes for row in rows) == result.new_size == 150 * MIB
    assert all(60 * MIB < row.size_bytes <= 64 * MIB for row in rows[:2])
    assert all(row.state == "live" and row.held_by for row in rows)


async def test_of_a_sparse_disk_only_the_data_is_read(world: World) -> None:
    disk = SparseDisk(20 * GIB, {n * 100 * MIB: noise(n, 8 * KIB) for n in range(200)})
    result, manifest = await world.store_disk(disk)
    assert disk.read_bytes < 200 * 128 * KIB, "holes are not read"
    assert result.digest == disk.digest() == digest_blocks(disk)
    assert manifest.chunk_count == 200


async def test_the_largest_disk_may_be_empty(world: World) -> None:
    result, _ = await world.store_disk(SparseDisk(64 << 40, {}))
    assert result.chunk_count == 0
    assert await world.blobs("packs/") == []


async def test_zeros_that_the_source_does_not_tell_are_found(world: World) -> None:
    disk = SparseDisk(40 * MIB, {30 * MIB: noise(1, 100 * KIB)}, tells_zeros=False)
    result, _ = await world.store_disk(disk)
    assert result.data_size == 100 * KIB
    assert result.digest == disk.digest()


async def test_progress_only_grows_and_reaches_the_end(world: World) -> None:
    disk = mixed_disk()
    seen: list[int] = []
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.copy_from(disk, seen.append)
        await ingest.finish(disk.size_bytes)
    assert seen == sorted(seen)
    assert seen[-1] == disk.size_bytes


async def test_forty_ingests_share_a_small_budget() -> None:
    pool = DecodePool(2, budget_bytes=20 * MIB)
    try:
        worlds = [World(pool) for _ in range(40)]
        disks = [
            SparseDisk(12 * MIB + 512 * n, {n * 4096: noise(n, 2 * MIB), 7 * MIB: noise(n, MIB)})
            for n in range(40)
        ]
        results = await asyncio.gather(*(w.store_disk(d) for w, d in zip(worlds, disks, strict=True)))
        assert [result.digest for result, _ in results] == [disk.digest() for disk in disks]
        assert await worlds[0].budget_is_whole()
    finally:
        pool.close()


async def test_the_stored_bytes_of_a_chunk_are_where_its_entry_says(world: World) -> None:
    sink = ListSink()
    disk = SparseDisk(8 * MIB, {0: noise(1, 2 * MIB)})
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        await ingest.copy_from(disk)
        await ingest.finish(disk.size_bytes)
    assert isinstance(world.store, MemoryStore)
    for start, length, _, place in sink.entries:
        blob = f"packs/{place.pack_id[:2]}/{place.pack_id}"
        (stored,) = await world.store.read(blob, [ByteRange(place.offset, place.stored_length)])  # type: ignore[arg-type]
        assert stored == disk.content()[start : start + length]


async def test_a_source_with_tiny_extents_gives_the_same(world: World) -> None:
    class Divided(SparseDisk):
        def extents(self, start: int, length: int) -> list[Extent]:
            return [
                Extent(at, min(512, start + length - at), False) for at in range(start, start + length, 512)
            ]

    content = text(9, 3 * MIB)
    plain, divided = SparseDisk(4 * MIB, {0: content}), Divided(4 * MIB, {0: content})
    sinks = ListSink(), ListSink()
    for disk, sink in zip((plain, divided), sinks, strict=True):
        async with DiskIngest(world.pool, world.target, sink) as ingest:
            await ingest.copy_from(disk)
            await ingest.finish(disk.size_bytes)
    assert outline(sinks[0].entries) == outline(sinks[1].entries)
