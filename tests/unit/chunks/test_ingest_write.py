"""Storing a disk while its bytes arrive: pieces, pauses, checkpoints and restarts do not matter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.ingest import IDLE_SECONDS, DiskIngest
from imsd.chunks.ingest_state import IngestResult, IngestState
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.segment import SegmentSink, decode_segment, encode_segment
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobId, DataLoss
from tests.unit.chunks.ingest_world import GIB, KIB, MIB, ListSink, SparseDisk, World, noise, outline, text


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool)


async def whole(world: World, content: bytes) -> tuple[IngestResult, list[tuple[int, int, bytes]]]:
    """Store ``content`` in one go."""
    sink = ListSink()
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        await ingest.write(content)
        result = await ingest.finish(len(content))
    return result, outline(sink.entries)


def contents() -> st.SearchStrategy[bytes]:
    """Up to 7 MiB: noise, text and zeros in turns."""
    lengths = st.sampled_from([1, 511, 4096, 30 * KIB, 32 * KIB, 100 * KIB, 700 * KIB, 2 * MIB + 5])
    make = st.sampled_from([noise, text, lambda _, n: bytes(n)])
    part = st.builds(lambda kind, seed, n: kind(seed, n), make, st.integers(0, 3), lengths)
    return st.lists(part, min_size=1, max_size=6).map(b"".join)


def cipher(is_encrypted: bool) -> ChunkCipher | None:
    """A new one each time, as another daemon has it."""
    return ChunkCipher(noise(1, 32), "image-1") if is_encrypted else None


@settings(max_examples=25)
@given(contents(), st.integers(0, 2**32), st.booleans())
def test_pieces_checkpoints_and_restarts_do_not_matter(content: bytes, seed: int, is_encrypted: bool) -> None:
    choose = random.Random(seed).choice
    steps = ["write", "write", "write", "checkpoint", "restart", "pause"]
    sizes = [1, 100, 4096, 65_536, 300 * KIB, MIB, 5 * MIB]

    async def ingest_in_steps() -> None:
        pool = DecodePool(2)
        try:
            expected, outline_of_all = await whole(World(pool, cipher=cipher(is_encrypted)), content)
            world, sink, committed = World(pool), SegmentSink(), list[ChunkEntry]()
            state = IngestState(0, TreeHasher().state())
            finished = None
            while finished is None:
                world.cipher = cipher(is_encrypted)
                async with DiskIngest(pool, world.target, sink, start=state) as ingest:
                    while finished is None:
                        step = choose(steps)
                        if step == "write":
                            position = ingest.position
                            piece = content[position : position + choose(sizes)]
                            if piece.strip(b"\0"):
                                await ingest.write(piece)
                            else:
                                await ingest.write_zeros(len(piece))
                        elif step == "pause":
                            ingest._submit_window()
                            await asyncio.sleep(0)
                        else:
                            before = ingest.position
                            state = IngestState.from_bytes((await ingest.checkpoint()).to_bytes())
                            committed += sink.take()
                            assert before - 516 * KIB < state.position <= before == state.end
                            assert state.undecided == content[state.position : before]
                            assert all(entry.end <= state.position for entry in committed)
                            if step == "restart":
                                break
                        if ingest.position == len(content):
                            finished = await ingest.finish(len(content))
                            committed += sink.take()
                sink.take()  # what came after the last checkpoint is lost with the daemon
            assert outline(committed) == outline_of_all
            assert finished.digest == expected.digest
            assert (finished.chunk_count, finished.data_size) == (expected.chunk_count, expected.data_size)
            async with ManifestWriter(world.target) as manifest:
                await manifest.add(committed)
                written = await manifest.commit(len(content), finished.digest)
            assert await world.read_back(written.manifest_id) == content
        finally:
            pool.close()

    asyncio.run(ingest_in_steps())


async def test_a_disk_written_in_pieces_equals_the_disk_that_is_copied(world: World) -> None:
    disk = SparseDisk(
        30 * MIB, {0: text(1, 3 * MIB), 9 * MIB + 512: noise(2, 9 * MIB), 28 * MIB: noise(3, 512)}
    )
    copied, written = ListSink(), ListSink()
    async with DiskIngest(world.pool, world.target, copied) as ingest:
        await ingest.copy_from(disk)
        first = await ingest.finish(disk.size_bytes)
    async with DiskIngest(world.pool, world.target, written) as ingest:
        for extent in disk.extents(0, disk.size_bytes):
            if extent.is_zero:
                await ingest.write_zeros(extent.length)
            else:
                buffer = bytearray(extent.length)
                disk.read_into(extent.start, memoryview(buffer))
                for start in range(0, len(buffer), MIB):
                    await ingest.write(memoryview(buffer)[start : start + MIB])
        second = await ingest.finish(disk.size_bytes)
    assert outline(copied.entries) == outline(written.entries)
    assert second.digest == first.digest == disk.digest()
    assert second.new_size == 0


async def test_long_runs_of_zeros_cost_nothing(world: World) -> None:
    sink = ListSink()
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        await ingest.write(b"boot")
        for _ in range(50):
            await ingest.write_zeros(400 * GIB + 3)
            await ingest.write(b"x")
        result = await ingest.finish(ingest.position)
    assert result.chunk_count == 51
    assert result.size_bytes == 4 + 50 * (400 * GIB + 4)


async def test_a_disk_can_be_taken_up_where_another_run_left_it_and_copied_to_its_end(world: World) -> None:
    disk = SparseDisk(40 * MIB, {0: noise(1, 5 * MIB + 300 * KIB), 20 * MIB: noise(2, MIB)})
    _, expected = await whole(world, disk.content())
    sink = ListSink()
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        await ingest.write(disk.content()[: 5 * MIB])
        state = await ingest.checkpoint()
    assert state.position % (64 * KIB), "a position inside a leaf, or the test shows nothing"
    async with DiskIngest(world.pool, world.target, sink, start=state) as ingest:
        await ingest.copy_from(disk)
        result = await ingest.finish(disk.size_bytes)
    assert result.digest == disk.digest()
    assert outline(sink.entries) == expected


async def test_what_a_checkpoint_covers_is_durable_and_findable(world: World) -> None:
    content = noise(1, 9 * MIB)
    sink = SegmentSink()
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        await ingest.write(content)
        state = await ingest.checkpoint()
        entries = sink.take()
        assert entries[-1].end == state.position
        assert {place.pack_id for place in world.index.chunks.values()} == {
            e.location.pack_id for e in entries
        }
        assert await world.blobs("packs/")
        assert await ingest.checkpoint() == state, "nothing new: nothing changes"
        assert sink.take() == []


async def test_a_checkpoint_between_a_chunk_and_the_end_of_its_leaf_loses_neither(world: World) -> None:
    content = noise(1, 12 * KIB) + bytes(MIB)
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.write(content[: 56 * KIB])
        state = await ingest.checkpoint()
        assert state.position == 56 * KIB
        await ingest.write(content[56 * KIB :])
        result = await ingest.finish(len(content))
    assert (
        result.digest
        == (await whole(world, content))[0].digest
        == SparseDisk(len(content), {0: content}).digest()
    )


async def test_zeros_at_the_end_count_as_stored(world: World) -> None:
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.write(noise(1, 100 * KIB))
        await ingest.write_zeros(10 * GIB)
        state = await ingest.checkpoint()
    assert state.position == (100 * KIB + 10 * GIB) // 4096 * 4096


async def segments_of(world: World, content: bytes) -> AsyncIterator[bytes]:
    sink = SegmentSink()
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        for start in range(0, len(content), 3 * MIB):
            await ingest.write(content[start : start + 3 * MIB])
            await ingest.checkpoint()
            yield encode_segment(sink.take())
        await ingest.finish(len(content))
        yield encode_segment(sink.take())


async def test_a_manifest_assembled_from_segments_reads_as_the_disk(world: World) -> None:
    content = text(1, 10 * MIB) + noise(1, MIB)
    blobs = [segment async for segment in segments_of(world, content)]

    hasher = TreeHasher()
    hasher.update(content)
    async with ManifestWriter(world.target) as writer:
        for blob in blobs:
            await writer.add_rows(decode_segment(blob))
        manifest = await writer.commit(len(content), hasher.digest())
    assert await world.read_back(manifest.manifest_id) == content
    assert set(manifest.packs) == set(world.index.packs)


async def test_segments_in_the_wrong_order_are_refused(world: World) -> None:
    blobs = [segment async for segment in segments_of(world, noise(1, 7 * MIB))]

    async with ManifestWriter(world.target) as writer:
        await writer.add_rows(decode_segment(blobs[1]))
        with pytest.raises(DataLoss, match="begins before"):
            await writer.add_rows(decode_segment(blobs[0]))


async def test_writers_that_pause_give_their_windows_to_others() -> None:
    pool = DecodePool(2, budget_bytes=10 * MIB)  # one window at a time
    try:
        world = World(pool)
        async with DiskIngest(pool, world.target, ListSink()) as stalled:
            await stalled.write(noise(1, MIB + 100))
            other, _ = await asyncio.wait_for(whole(World(pool), noise(2, MIB)), 20 * IDLE_SECONDS)
            assert other.chunk_count
            await stalled.write(noise(3, MIB))
            result = await stalled.finish(2 * MIB + 100)
        assert result.digest == (await whole(World(pool), noise(1, MIB + 100) + noise(3, MIB)))[0].digest
        assert await world.budget_is_whole()
    finally:
        pool.close()


async def test_more_writers_than_windows_all_get_on() -> None:
    pool = DecodePool(2, budget_bytes=26 * MIB)
    try:
        results = await asyncio.gather(*(whole(World(pool), noise(n, 6 * MIB)) for n in range(40)))
        assert len({result.digest for result, _ in results}) == 40
    finally:
        pool.close()


async def test_a_size_that_is_not_the_position_is_refused(world: World) -> None:
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.write(b"12345")
        with pytest.raises(ValueError, match="5 bytes of a disk of 6"):
            await ingest.finish(6)


async def test_a_disk_is_not_copied_from_the_middle_of_a_block(world: World) -> None:
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.write(b"12345")
        with pytest.raises(ValueError, match="from byte 5"):
            await ingest.copy_from(SparseDisk(MIB, {}))


async def test_an_upload_holds_the_packs_it_wrote(pool: DecodePool) -> None:
    world = World(pool, holder=Holder(HolderKind.UPLOAD, "upload-1", 3))
    await whole(world, noise(1, MIB))
    assert [row.held_by for row in world.index.packs.values()] == [{(HolderKind.UPLOAD, "upload-1")}]
    (pack,) = await world.blobs("packs/")
    assert (await world.store.stat(BlobId(pack))).size_bytes == MIB
