"""What the real ingest stored is what the reader reads, or an error that names the blob at fault."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.chunks.chunk_reader import ChunkReader, open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.codec import PlainChunk, encode_chunks
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import Codec
from imsd.chunks.render import render
from imsd.chunks.verify import verify
from imsd.contract import DataLoss
from imsd.formats.raw_writer import RawWriter
from tests.unit.chunks.ingest_world import KIB, MIB, SparseDisk, World, noise, text
from tests.unit.chunks.stored_disk import get, put
from tests.unit.chunks.test_chunk_reader import read, rebuilt
from tests.unit.formats.disk_files import bytes_of

SECTOR = 512


@st.composite
def sparse_disks(draw: st.DrawFn) -> SparseDisk:
    """Up to 3 MiB of text, noise and holes at any sector; the end may lie inside a block."""
    pieces: dict[int, bytes] = {}
    position = 0
    for number in range(draw(st.integers(0, 6))):
        position += draw(st.integers(0, 600)) * SECTOR
        length = draw(st.integers(1, 1000)) * SECTOR
        make = draw(st.sampled_from([text, noise]))
        pieces[position] = make(draw(st.integers(0, 3)) + 10 * (number % 2), length)
        position += length
    size = max(SECTOR, position + draw(st.integers(0, 300)) * SECTOR)
    return SparseDisk(size, pieces, tells_zeros=draw(st.booleans()))


def fixed_disk() -> SparseDisk:
    """Three MiB and three sectors, both codecs, holes, chunks that cross 2 MiB."""
    pieces = {
        0: text(1, 300 * KIB),
        512 * KIB: noise(2, 200 * KIB),
        1900 * KIB: text(3, 400 * KIB),
        3 * MIB - 5 * KIB: text(4, 5 * KIB + 3 * SECTOR),
    }
    return SparseDisk(3 * MIB + 3 * SECTOR, pieces)


@settings(max_examples=40)
@given(sparse_disks(), st.sampled_from([None, ChunkCipher(noise(1, 32), "image-1")]), st.data())
async def test_any_disk_reads_back_in_any_windows(
    disk: SparseDisk, cipher: ChunkCipher | None, data: st.DataObject
) -> None:
    pool = DecodePool(2)
    try:
        world = World(pool, cipher=cipher)
        result, written = await world.store_disk(disk)
        content = disk.content()
        async with open_chunk_reader(world.store, written.manifest_id, pool, cipher=cipher) as reader:
            assert (reader.size_bytes, reader.digest) == (disk.size_bytes, result.digest)
            assert await read(pool, reader, 0, disk.size_bytes) == content
            for _ in range(4):
                start = data.draw(st.integers(0, disk.size_bytes - 1))
                length = data.draw(st.integers(0, disk.size_bytes - start))
                assert await read(pool, reader, start, length) == content[start : start + length]
                for extent in await pool.run(reader.extents, start, length):
                    assert not extent.is_zero or not any(content[extent.start : extent.end])
            frames = await pool.run(reader.frames, 0, disk.size_bytes)
            assert await pool.run(rebuilt, disk.size_bytes, frames, reader) == content
            checked = await verify(reader, pool)
        assert (checked.digest, checked.damage_count) == (result.digest, 0)
        assert checked.chunks_checked == written.chunk_count
    finally:
        pool.close()


async def test_no_frame_crosses_the_end_of_a_large_cluster(pool: DecodePool) -> None:
    """So that all of them travel; but a chunk keeps its frames on a disk where it lies elsewhere."""
    world = World(pool)
    shared = text(3, 400 * KIB)
    first = SparseDisk(3 * MIB, {1900 * KIB: shared})
    second = SparseDisk(5 * MIB, {100 * KIB: shared, 3800 * KIB: text(4, 600 * KIB)})
    crossing, more_frames = [], []
    for disk in (first, second):
        result, written = await world.store_disk(disk)
        async with open_chunk_reader(world.store, written.manifest_id, pool) as reader:
            frames = await pool.run(reader.frames, 0, disk.size_bytes)
            assert await pool.run(rebuilt, disk.size_bytes, frames, reader) == disk.content()
            table = await pool.run(reader.frame_table, 0, disk.size_bytes)
            assert [(f.start, f.length, len(f.frame or b"")) for f in frames] == list(table)
            for start in range(0, disk.size_bytes, MIB):
                inside = await pool.run(reader.frames, start, MIB)
                assert all(f.start < start + MIB and f.start + f.length > start for f in inside)
                assert [f for f in frames if f.start < start + MIB and f.start + f.length > start] == inside
                listed = await pool.run(reader.frame_table, start, MIB)
                assert [at for at, *_ in listed] == [f.start for f in inside]
            rendering = render(RawWriter(reader, may_frame=True), pool)
            assert bytes_of([output async for piece in rendering for output in piece]) == disk.content()
            assert await read(pool, reader, 0, disk.size_bytes) == disk.content()
        crossing += [f for f in frames if f.start // (2 * MIB) != (f.start + f.length - 1) // (2 * MIB)]
        more_frames.append(len(frames) - result.chunk_count)
    assert crossing == []
    assert more_frames == [1, 2]


def test_what_the_encoder_writes_may_travel() -> None:
    encoded = encode_chunks([PlainChunk(bytes(32), memoryview(text(1, 64 * KIB)))])[0]
    frame = memoryview(encoded.stored)
    assert encoded.codec is Codec.ZSTD
    assert bytes(frame[:4]) == b"\x28\xb5\x2f\xfd"
    assert frame[4] & 0b100  # a checksum


async def read_everything(pool: DecodePool, reader: ChunkReader) -> bytes:
    frames = await pool.run(reader.frames, 0, reader.size_bytes)
    content = await read(pool, reader, 0, reader.size_bytes)
    assert await pool.run(rebuilt, reader.size_bytes, frames, reader) == content
    return content


async def test_no_altered_byte_of_any_blob_goes_unnoticed(pool: DecodePool) -> None:
    world = World(pool)
    _, written = await world.store_disk(fixed_disk())
    chance = random.Random(1)
    blobs = [stored async for stored in world.store.list()]
    assert len(blobs) >= 3
    for stored in blobs:
        good = await get(world.store, stored.id)
        for _ in range(40):
            at = chance.randrange(len(good))
            bad = bytearray(good)
            bad[at] ^= 1 << chance.randrange(8)
            await put(world.store, stored.id, bytes(bad))
            with pytest.raises(DataLoss) as caught:
                async with open_chunk_reader(world.store, written.manifest_id, pool) as reader:
                    await read_everything(pool, reader)
            assert stored.id in caught.value.message, (stored.id, at)
        await put(world.store, stored.id, good)
    async with open_chunk_reader(world.store, written.manifest_id, pool) as reader:
        assert await read_everything(pool, reader) == fixed_disk().content()


async def test_no_blob_can_be_cut_or_missing_unnoticed(pool: DecodePool) -> None:
    world = World(pool)
    _, written = await world.store_disk(fixed_disk())
    chance = random.Random(2)
    for stored in [stored async for stored in world.store.list()]:
        good = await get(world.store, stored.id)
        lengths = {0, 1, len(good) - 1, *(chance.randrange(len(good)) for _ in range(10))}
        for bad in [None, *(good[:length] for length in sorted(lengths))]:
            await world.store.delete(stored.id)
            if bad is not None:
                await put(world.store, stored.id, bad)
            with pytest.raises(DataLoss, match=stored.id):
                async with open_chunk_reader(world.store, written.manifest_id, pool) as reader:
                    await read_everything(pool, reader)
        await put(world.store, stored.id, good)
