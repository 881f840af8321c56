"""Disks on their way into an encrypted image: pauses, other daemons, cancellation, moves; no nonce twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import zstandard

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import NONCE_BYTES, SEAL_BYTES, ChunkCipher
from imsd.chunks.codec import PlainChunk, encode_chunks, no_check
from imsd.chunks.cutter import Cut
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.index import Codec, Holder, HolderKind, pack_blob
from imsd.chunks.ingest import UNCUT, DiskIngest
from imsd.chunks.ingest_state import IngestState
from imsd.chunks.manifest_reader import open_manifest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.record_ingest import RecordIngest
from imsd.chunks.relocate import Moving, relocate
from imsd.chunks.sealing import seal_chunks
from imsd.chunks.segment import SegmentSink
from imsd.chunks.verify import verify
from imsd.contract import BlobId, DataLoss
from imsd.formats.output import Packed
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import KIB, MIB, SparseDisk, World, noise, text
from tests.unit.chunks.stored_disk import get, put

MOVE = Holder(HolderKind.JOB, "job-2", 1)
DISK = SparseDisk(30 * MIB, {0: text(1, 7 * MIB), 10 * MIB: noise(2, 5 * MIB), 29 * MIB: text(3, 9 * KIB)})


def cipher() -> ChunkCipher:
    """A new one each time, as another daemon has it."""
    return ChunkCipher(noise(1, 32), "image-1")


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool, cipher=cipher())


async def nonces(world: World) -> list[bytes]:
    """Of all chunks that the index knows, whether anything refers to them or not."""
    places = list(world.index.chunks.values())
    packs = {place.pack_id: await get(world.store, pack_blob(place.pack_id)) for place in places}
    return [packs[place.pack_id][place.offset :][:NONCE_BYTES] for place in places]


async def test_an_ingest_goes_on_elsewhere_and_no_nonce_is_used_twice(world: World) -> None:
    content = text(1, 3 * MIB) + noise(2, 2 * MIB) + text(1, 4 * MIB)
    state, sink, entries = b"", SegmentSink(), list[ChunkEntry]()
    used: list[bytes] = []
    for run in range(9):
        world.cipher = cipher()
        start = IngestState.from_bytes(world.cipher.open("state", state)) if state else None
        async with DiskIngest(world.pool, world.target, sink, start=start) as ingest:
            if start:
                await ingest.write(start.undecided)
            await ingest.write(content[ingest.position : ingest.position + MIB])
            reached = await ingest.checkpoint()
            entries += sink.take()
            state = world.cipher.seal("state", reached.to_bytes())
            assert content[reached.position : reached.position + 64] not in state
            await ingest.write(content[ingest.position : ingest.position + MIB])
            await ingest.checkpoint()  # which nobody kept: the next daemon seals the same chunks again
        sink.take()
        assert ingest.position >= (run + 1) * MIB
        used += await nonces(world)
        await world.index.distrust(list(world.index.packs))
    async with DiskIngest(world.pool, world.target, sink, start=reached) as ingest:
        await ingest.write(reached.undecided)
        result = await ingest.finish(len(content))
        entries += sink.take()
    async with ManifestWriter(world.target) as manifest:
        await manifest.add(entries)
        manifest_id = (await manifest.commit(len(content), result.digest)).manifest_id
    assert await world.read_back(manifest_id) == content
    used += await nonces(world)
    assert len(set(used)) == len(used) > 1.5 * len(entries)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03, 0.06])
async def test_a_cancelled_run_leaves_nothing_and_the_next_one_succeeds(
    pool: DecodePool, delay: float
) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, Fault(call=Call.COMMIT, kind=FaultKind.HANG, times=None))
    world = World(pool, store, cipher=cipher())
    task = asyncio.create_task(world.store_disk(DISK))
    await asyncio.sleep(delay)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.blobs() == []
    assert await world.budget_is_whole()
    world.store = inner
    _, written = await world.store_disk(DISK)
    assert await world.read_back(written.manifest_id) == DISK.content()


async def test_a_disk_that_is_not_cut_is_sealed_too(world: World) -> None:
    async with (
        ManifestWriter(world.target) as manifest,
        DiskIngest(world.pool, world.target, manifest, cutting=UNCUT) as ingest,
    ):
        await ingest.copy_from(DISK)
        result = await ingest.finish(DISK.size_bytes)
        written = await manifest.commit(result.size_bytes, result.digest)
    assert result.digest == cipher().tree_digest(DISK.digest())
    assert await world.read_back(written.manifest_id) == DISK.content()


async def test_records_are_sealed_and_come_back_as_they_were(world: World) -> None:
    plain = [text(1, 2 * MIB), noise(2, 2 * MIB), text(3, 300 * KIB)]
    records = [Packed(memoryview(part), zstandard.compress(part)) for part in plain]
    async with (
        ManifestWriter(world.target) as manifest,
        RecordIngest(world.pool, world.target, manifest) as ingest,
    ):
        for record in records:
            await ingest.add(record)
        result = await ingest.finish(sum(map(len, plain)))
        written = await manifest.commit(result.size_bytes, result.digest)
    assert [bytes(record.plain) for record in records] == plain  # not ours to write to
    assert await world.read_back(written.manifest_id) == b"".join(plain)
    async with open_chunk_reader(
        world.store, written.manifest_id, world.pool, digests=True, cipher=cipher()
    ) as reader:
        frames = await world.pool.run(reader.frames, 0, reader.size_bytes)
        found = await verify(reader, world.pool)
    assert [bytes(frame.frame or b"") for frame in frames] == [records[0].frames, b"", records[2].frames]
    assert (found.damage_count, found.digest) == (0, result.digest)
    pieces = b"".join([await get(world.store, BlobId(blob)) for blob in await world.blobs("packs/")])
    assert zstandard.FRAME_HEADER not in pieces


async def test_chunks_move_without_the_key(world: World) -> None:
    result, old = await world.store_disk(DISK)
    await world.index.publish_manifest(world.holder, old.manifest_id, old.packs)
    target = World(world.pool, MemoryStore(), world.index, MOVE, "second").target
    keyless = type(target)(target.store, "second", world.index, cipher().domain, MOVE)
    manifest = await open_manifest(world.store, old.manifest_id, world.pool)
    moved = await relocate(Moving(world.store, manifest), world.pool, keyless)
    assert moved.copied_bytes == result.new_size
    there = World(world.pool, target.store, world.index, MOVE, "second", cipher())
    assert await there.read_back(moved.written.manifest_id) == DISK.content()
    async with open_chunk_reader(
        there.store,
        moved.written.manifest_id,
        world.pool,
        digests=True,
        cipher=cipher(),
    ) as reader:
        reader.require_digest(result.digest)
        assert (await verify(reader, world.pool)).damage == []


async def test_a_chunk_that_was_altered_does_not_move(world: World) -> None:
    _, old = await world.store_disk(DISK)
    await world.index.publish_manifest(world.holder, old.manifest_id, old.packs)
    pack = bytearray(await get(world.store, pack_blob(old.packs[0])))
    pack[100] ^= 1
    await put(world.store, pack_blob(old.packs[0]), bytes(pack))
    target = World(world.pool, MemoryStore(), world.index, MOVE, "second").target
    manifest = await open_manifest(world.store, old.manifest_id, world.pool)
    with pytest.raises(DataLoss, match="not those that were written"):
        await relocate(Moving(world.store, manifest), world.pool, target)


def seal(
    content: bytearray, chunks: Sequence[tuple[int, int]], *, is_spare: bool
) -> list[tuple[Codec, memoryview]]:
    cut = Cut(memoryview(content), 0, list(chunks), 0, is_spare=is_spare)
    new = [(bytes([number]) * 32, start, length) for number, (start, length) in enumerate(chunks)]
    encoded = encode_chunks([PlainChunk(name, cut.chunk(start, size)) for name, start, size in new], no_check)
    return [(made.codec, memoryview(made.stored)) for made in seal_chunks(cipher(), cut, new, encoded)]


def test_what_shrinks_is_sealed_in_the_place_of_its_plain_bytes() -> None:
    content = bytearray(text(1, 64 * KIB) + noise(2, 64 * KIB) + text(3, 64 * KIB))
    plain = bytes(content)
    chunks = [(at, 64 * KIB) for at in range(0, len(content), 64 * KIB)]
    sealed = seal(content, chunks, is_spare=True)
    assert [codec for codec, _ in sealed] == [Codec.SEALED_ZSTD, Codec.SEALED_RAW, Codec.SEALED_ZSTD]
    for (start, length), (codec, stored) in zip(chunks, sealed, strict=True):
        is_inside = codec is Codec.SEALED_ZSTD
        assert (stored.obj is content) is is_inside
        place = content[start : start + length]
        if is_inside:
            assert place[: len(stored)] == stored
            assert place[: len(stored)] != plain[start : start + len(stored)]
        else:
            assert place == plain[start : start + length]
            assert len(stored) == length + SEAL_BYTES


def test_what_is_not_ours_is_left_as_it_is() -> None:
    content = bytearray(text(1, 64 * KIB))
    ((_, stored),) = seal(content, [(0, 64 * KIB)], is_spare=False)
    assert content == text(1, 64 * KIB)
    assert stored.obj is not content


def test_a_frame_that_is_hardly_shorter_than_its_chunk_is_sealed_apart() -> None:
    """The seal makes it longer than the place that it would take, where another chunk may begin."""
    length = 1000
    content = bytearray(noise(1, length - 36) + bytes(36) + text(2, 4096))
    behind = bytes(content[length:])
    made = encode_chunks([PlainChunk(bytes(32), memoryview(content)[:length])])[0]
    assert length - SEAL_BYTES < len(made.stored) < length
    ((codec, stored),) = seal(content, [(0, length)], is_spare=True)
    assert (codec, len(stored)) == (Codec.SEALED_ZSTD, len(made.stored) + SEAL_BYTES)
    assert stored.obj is not content
    assert content[length:] == behind
