"""Stored images, read back, and every kind of damage to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.chunk_reader import ChunkReader, open_chunk_reader
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.frames import decode_frame
from imsd.chunks.index import Codec
from imsd.chunks.verify import verify
from imsd.contract import DataLoss, Unavailable
from imsd.formats.source import Extent, Frame
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import (
    BLOCK,
    COMPRESSOR,
    MANIFEST_ID,
    Piece,
    StoredDisk,
    put,
    small_disk,
    stored_disk,
    text,
)


@asynccontextmanager
async def stored(disk: StoredDisk, pool: DecodePool) -> AsyncIterator[tuple[MemoryStore, ChunkReader]]:
    store = MemoryStore()
    await disk.put(store)
    async with open_chunk_reader(store, disk.manifest_id, pool) as reader:
        yield store, reader


async def read(pool: DecodePool, reader: ChunkReader, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xaa" * length)
    await pool.run(reader.read_into, offset, memoryview(buffer))
    return bytes(buffer)


async def test_the_disk_reads_as_it_was_stored(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (_, reader):
        assert reader.size_bytes == len(disk.content)
        assert reader.digest == disk.digest
        assert await read(pool, reader, 0, reader.size_bytes) == disk.content


async def test_any_window_reads_as_the_disk(pool: DecodePool) -> None:
    disk = small_disk()
    chance = random.Random(1)
    async with stored(disk, pool) as (_, reader):
        for _ in range(100):
            start = chance.randrange(len(disk.content))
            length = min(chance.choice([1, 511, 4096, 70_000, 1 << 20]), len(disk.content) - start)
            assert await read(pool, reader, start, length) == disk.content[start : start + length]
        assert await read(pool, reader, 17, 0) == b""


async def test_extents_cover_the_range_and_say_where_zeros_are(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (_, reader):
        whole = await pool.run(reader.extents, 0, reader.size_bytes)
        assert whole[:4] == [
            Extent(0, 96 << 10, False),
            Extent(96 << 10, 160 << 10, True),
            Extent(256 << 10, 128 << 10, False),
            Extent(384 << 10, (2 << 20) - (64 << 10) - (384 << 10), True),
        ]
        assert whole[-1] == Extent(len(disk.content) - 5 * BLOCK, 5 * BLOCK, False)
        assert await pool.run(reader.extents, 10, 20) == [Extent(10, 20, False)]
        assert await pool.run(reader.extents, 100 << 10, 20) == [Extent(100 << 10, 20, True)]
        assert await pool.run(reader.extents, (96 << 10) - 5, 10) == [
            Extent((96 << 10) - 5, 5, False),
            Extent(96 << 10, 5, True),
        ]
        assert await pool.run(reader.extents, 5, 0) == []


async def test_a_window_outside_the_disk_is_a_mistake_of_the_caller(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (_, reader):
        with pytest.raises(ValueError, match="are not on a disk"):
            reader.extents(0, reader.size_bytes + 1)
        with pytest.raises(ValueError, match="are not on a disk"):
            reader.read_into(-1, memoryview(bytearray(5)))


async def test_a_disk_of_zeros_reads_no_pack(pool: DecodePool) -> None:
    disk = stored_disk(8 << 20, [])
    async with stored(disk, pool) as (_, reader):
        assert await read(pool, reader, 1 << 20, 1 << 20) == bytes(1 << 20)
        assert reader.extents(0, 8 << 20) == [Extent(0, 8 << 20, True)]
        assert reader.frame_table(0, 8 << 20) == []


async def test_a_window_reads_each_of_its_packs_once(pool: DecodePool) -> None:
    pieces = [Piece(n * (64 << 10), text(n, 64 << 10), pack=n % 3) for n in range(32)]
    disk = stored_disk(2 << 20, pieces)
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    async with open_chunk_reader(store, MANIFEST_ID, pool) as reader:
        await pool.run(reader.extents, 0, reader.size_bytes)  # the manifest's page
        before = store.calls[Call.READ]
        assert await read(pool, reader, 0, 2 << 20) == disk.content
        assert store.calls[Call.READ] - before == 3


async def test_only_windows_that_are_read_retain_bytes(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (_, reader):
        starts = range(0, reader.size_bytes - (1 << 20), 300_000)
        pieces = await asyncio.gather(*(read(pool, reader, start, 1 << 20) for start in starts))
        assert pieces == [disk.content[start : start + (1 << 20)] for start in starts]
        assert reader.bytes_at_hand == 0


# -- frames ------------------------------------------------------------------------------------------


def rebuilt(size: int, frames: Sequence[Frame], reader: ChunkReader) -> bytes:
    """The disk from its frames; what has none is read; the rest is zero."""
    content = bytearray(size)
    for frame in frames:
        place = memoryview(content)[frame.start : frame.start + frame.length]
        if frame.frame is None:
            reader.read_into(frame.start, place)
        else:
            place[:] = zstandard.ZstdDecompressor().decompress(frame.frame)
    return bytes(content)


async def test_frames_and_gaps_make_the_disk(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (_, reader):

        def rebuild() -> bytes:
            return rebuilt(reader.size_bytes, reader.frames(0, reader.size_bytes), reader)

        assert await pool.run(rebuild) == disk.content


async def test_the_frame_table_says_what_frames_will_be(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (_, reader):
        table = await pool.run(reader.frame_table, 0, reader.size_bytes)
        frames = await pool.run(reader.frames, 0, reader.size_bytes)
        assert [(f.start, f.length, len(f.frame or b"")) for f in frames] == list(table)
        assert {codec for *_, codec in disk.placed} == {Codec.RAW, Codec.ZSTD}
        inside = await pool.run(reader.frame_table, (2 << 20) - 1, 2)
        assert [start for start, *_ in inside] == [(2 << 20) - (64 << 10)]


async def test_what_has_no_frame_is_at_hand_after_frames(pool: DecodePool) -> None:
    """One round of fetching for both, or a window would be verified twice."""
    disk = small_disk()
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    rounds = 0
    async with open_chunk_reader(store, MANIFEST_ID, pool) as reader:
        await pool.run(reader.extents, 0, reader.size_bytes)

        def rebuild() -> bytes:
            nonlocal rounds
            frames = reader.frames(0, reader.size_bytes)
            rounds += 1
            return rebuilt(reader.size_bytes, frames, reader)

        assert await pool.run(rebuild) == disk.content
    assert rounds == 1


async def test_other_bytes_than_those_written_are_lost_data(pool: DecodePool) -> None:
    """A perfect frame of the right length is no excuse."""
    disk = stored_disk(1 << 20, [Piece(BLOCK, b"a" * 100_000)])
    async with stored(disk, pool) as (store, reader):
        await put(store, disk.pack_blob(0), COMPRESSOR.compress(b"b" * 100_000))
        with pytest.raises(DataLoss, match=r"guest offset 4096 .* those that were written"):
            await pool.run(reader.frames, 0, 1 << 20)
        with pytest.raises(DataLoss, match=r"guest offset 4096 .* those that were written"):
            await read(pool, reader, 0, 1 << 20)


async def test_a_chunk_that_was_wrong_when_it_was_written_is_found_by_its_digest(pool: DecodePool) -> None:
    disk = stored_disk(1 << 20, [Piece(BLOCK, b"a" * 100_000, written=b"b" * 100_000)])
    store = MemoryStore()
    await disk.put(store)
    async with open_chunk_reader(store, MANIFEST_ID, pool, digests=True) as reader:
        with pytest.raises(DataLoss, match=r"guest offset 4096 .* its digest"):
            await read(pool, reader, 0, 1 << 20)
        found = await verify(reader, pool)
    assert [(damage.guest_offset, damage.length) for damage in found.damage] == [(BLOCK, 100_000)]


async def test_a_frame_without_checksum_is_read_but_does_not_travel(pool: DecodePool) -> None:
    bare = zstandard.ZstdCompressor(level=1, write_checksum=False)
    disk = stored_disk(1 << 20, [Piece(0, text(1, 64 << 10), compressor=bare)])
    async with stored(disk, pool) as (_, reader):
        assert await pool.run(reader.frames, 0, 1 << 20) == [Frame(0, 64 << 10, None)]
        assert await read(pool, reader, 0, 1 << 20) == disk.content


# -- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(6))
async def test_one_altered_bit_of_any_chunk_is_lost_data_that_names_blob_and_place(
    number: int, pool: DecodePool
) -> None:
    disk = small_disk()
    pack, offset, stored_length, codec = disk.placed[number]
    piece = disk.pieces[number]
    chance = random.Random(number)
    async with stored(disk, pool) as (store, reader):
        good = disk.blobs[disk.pack_blob(pack)]
        places = {0, 1, 5, stored_length - 1, *(chance.randrange(stored_length) for _ in range(20))}
        for at in sorted(places):
            bad = bytearray(good)
            bad[offset + at] ^= 1 << chance.randrange(8)
            await put(store, disk.pack_blob(pack), bytes(bad))
            with pytest.raises(DataLoss) as caught:
                await read(pool, reader, piece.start, len(piece.plain))
            assert disk.pack_blob(pack) in caught.value.message
            assert f"guest offset {piece.start}" in caught.value.message
            if codec is Codec.ZSTD:
                with pytest.raises(DataLoss):
                    await pool.run(reader.frames, piece.start, len(piece.plain))
        assert reader.bytes_at_hand == 0


async def test_damage_elsewhere_does_not_touch_a_window(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (store, reader):
        await store.delete(disk.pack_blob(2))
        assert await read(pool, reader, 0, 1 << 20) == disk.content[: 1 << 20]


async def test_a_missing_pack_is_lost_data_that_names_blob_and_place(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (store, reader):
        await store.delete(disk.pack_blob(2))
        with pytest.raises(DataLoss) as caught:
            await read(pool, reader, 2 << 20, 1 << 20)
        assert disk.pack_blob(2) in caught.value.message
        assert f"guest offset {2 << 20} to {3 << 20}" in caught.value.message
        with pytest.raises(DataLoss, match=disk.pack_blob(2)):
            await pool.run(reader.frames, 0, reader.size_bytes)


async def test_a_short_pack_is_lost_data_that_names_it(pool: DecodePool) -> None:
    disk = small_disk()
    async with stored(disk, pool) as (store, reader):
        pack = disk.pack_blob(1)
        await put(store, pack, disk.blobs[pack][:-1])
        with pytest.raises(DataLoss, match=pack):
            await read(pool, reader, 0, reader.size_bytes)
        await put(store, pack, b"")
        with pytest.raises(DataLoss, match=pack):
            await read(pool, reader, 0, reader.size_bytes)


@pytest.mark.parametrize("kind", [FaultKind.SHORT_READ, FaultKind.CORRUPT])
async def test_a_store_that_lies_is_found_out(kind: FaultKind, pool: DecodePool) -> None:
    disk = small_disk()
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    async with open_chunk_reader(store, MANIFEST_ID, pool) as reader:
        store.add(Fault(call=Call.READ, kind=kind, prefix="packs/", times=1))
        with pytest.raises(DataLoss, match="packs/"):
            await read(pool, reader, 0, 64 << 10)
        assert await read(pool, reader, 0, 64 << 10) == disk.content[: 64 << 10]


async def test_a_store_out_of_reach_is_not_lost_data(pool: DecodePool) -> None:
    disk = small_disk()
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    async with open_chunk_reader(store, MANIFEST_ID, pool) as reader:
        store.add(Fault(call=Call.READ, kind=FaultKind.RAISE_BEFORE, prefix="packs/", times=1))
        with pytest.raises(Unavailable):
            await read(pool, reader, 0, reader.size_bytes)
        assert reader.bytes_at_hand == 0


FRAMES = {
    "nothing": b"",
    "no frame": b"nothing like a frame",
    "another length": COMPRESSOR.compress(b"x" * 999),
    "no content size": zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000),
    "a frame and a half": COMPRESSOR.compress(b"x" * 1000) * 2,
    "cut short": COMPRESSOR.compress(random.Random(1).randbytes(1000))[:-5],
    # Says it holds 2**62 bytes: nothing may be allocated for it.
    "a bomb": b"\x28\xb5\x2f\xfd\xe4" + (1 << 62).to_bytes(8, "little") + b"\x01\x00\x00",
    "a skippable frame": b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_not_one_frame_of_the_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="frame"):
        decode_frame(FRAMES[name], 1000)


def test_one_frame_of_the_length_is_decoded() -> None:
    assert decode_frame(COMPRESSOR.compress(b"x" * 1000), 1000) == b"x" * 1000


# -- everything at once ------------------------------------------------------------------------------


@st.composite
def disks(draw: st.DrawFn) -> StoredDisk:
    pieces: list[Piece] = []
    position = 0
    for number in range(draw(st.integers(0, 12))):
        position += draw(st.integers(0, 6)) * BLOCK
        length = draw(st.integers(1, 8)) * BLOCK
        plain = text(number, length) if draw(st.booleans()) else random.Random(number).randbytes(length)
        pieces.append(Piece(position, plain, pack=draw(st.integers(0, 3))))
        position += length
    return stored_disk(position + draw(st.integers(0, 4)) * BLOCK, pieces)


@given(disks(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
async def test_any_disk_reads_back_in_any_windows(
    disk: StoredDisk, windows: list[tuple[float, float]]
) -> None:
    pool = DecodePool(2)
    size = len(disk.content)
    try:
        async with stored(disk, pool) as (_, reader):
            assert await read(pool, reader, 0, size) == disk.content
            for at, share in windows:
                start = int(at * size)
                length = int(share * (size - start))
                assert await read(pool, reader, start, length) == disk.content[start : start + length]
                extents = await pool.run(reader.extents, start, length)
                position = start
                for extent in extents:
                    assert extent.start == position
                    assert extent.length > 0
                    assert not extent.is_zero or not any(disk.content[extent.start : extent.end])
                    position = extent.end
                assert position == start + length
            frames = await pool.run(reader.frames, 0, size)

            def rebuild() -> bytes:
                return rebuilt(size, frames, reader)

            assert await pool.run(rebuild) == disk.content
    finally:
        pool.close()
