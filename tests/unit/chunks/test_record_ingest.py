"""Records that are kept as they came: their bytes travel untouched, their digests are those of any disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.codec import keep_record
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.index import Codec
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.ingest_state import IngestResult, IngestState
from imsd.chunks.layout import MAX_RECORD_BYTES
from imsd.chunks.manifest_writer import ManifestWriter, WrittenManifest
from imsd.chunks.record_ingest import RecordIngest
from imsd.chunks.segment import SegmentSink, decode_segment, encode_segment
from imsd.chunks.tree_digest import TreeHasher
from imsd.chunks.verify import verify
from imsd.contract import BlobId, ByteRange, DataLoss
from imsd.formats.output import Framed, Packed
from imsd.formats.raw_writer import RawWriter
from imsd.formats.zvhd2_writer import Zvhd2Writer
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import KIB, MIB, ListSink, World, noise, outline, text
from tests.unit.chunks.stored_disk import get, put

RECORD = MAX_RECORD_BYTES
# As the vendor's tool writes them, without a checksum; as another imsd does, with one.
BARE = zstandard.ZstdCompressor(level=1, write_content_size=True)
SOUND = zstandard.ZstdCompressor(level=3, write_content_size=True, write_checksum=True)


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool)


def packed(plain: bytes, compressor: zstandard.ZstdCompressor = BARE, pieces: int = 1) -> Packed:
    size = -(-len(plain) // pieces)
    frames = [compressor.compress(plain[at : at + size]) for at in range(0, len(plain), size)]
    return Packed(memoryview(plain), b"".join(frames))


def half(seed: int, length: int = RECORD) -> bytes:
    """Bytes that shrink by half."""
    return b"".join(noise(seed + at, 2048) + bytes(2048) for at in range(length // 4096 + 1))[:length]


@dataclass
class RecordedDisk:
    """Records and, as numbers, zeros between them."""

    parts: Sequence[Packed | int]

    def content(self) -> bytes:
        return b"".join(bytes(part) if isinstance(part, int) else bytes(part.plain) for part in self.parts)


def some_disk() -> RecordedDisk:
    return RecordedDisk(
        [
            packed(text(1, RECORD)),
            packed(half(2), SOUND),
            3 * RECORD,
            packed(half(3), SOUND, pieces=20),
            packed(noise(4, RECORD)),
            packed(bytes(RECORD)),
            Packed(memoryview(text(5, RECORD)), b""),
            RECORD,
            Packed(memoryview(half(6, 700 * KIB + 512)), b""),
        ]
    )


async def feed(ingest: RecordIngest, parts: Iterable[Packed | int]) -> None:
    for part in parts:
        if isinstance(part, int):
            await ingest.write_zeros(part)
        else:
            await ingest.add(part)


async def stored(world: World, disk: RecordedDisk) -> tuple[IngestResult, WrittenManifest]:
    async with (
        ManifestWriter(world.target) as manifest,
        RecordIngest(world.pool, world.target, manifest) as ingest,
    ):
        await feed(ingest, disk.parts)
        result = await ingest.finish(len(disk.content()))
        return result, await manifest.commit(result.size_bytes, result.digest)


async def entries_of(world: World, disk: RecordedDisk) -> list[ChunkEntry]:
    sink = ListSink()
    async with RecordIngest(world.pool, world.target, sink) as ingest:
        await feed(ingest, disk.parts)
        await ingest.finish(len(disk.content()))
    return sink.entries


async def stored_bytes(world: World, entry: ChunkEntry) -> bytes:
    place = entry.location
    blob = BlobId(f"packs/{place.pack_id[:2]}/{place.pack_id}")
    return (await world.store.read(blob, [ByteRange(place.offset, place.stored_length)]))[0]


def tree_digest(content: bytes) -> str:
    hasher = TreeHasher()
    hasher.update(content)
    return hasher.digest()


async def test_the_disk_is_read_back_and_has_the_digest_of_any_way_in(world: World) -> None:
    disk = some_disk()
    result, written = await stored(world, disk)
    assert result.digest == tree_digest(disk.content())
    assert await world.read_back(written.manifest_id) == disk.content()
    async with open_chunk_reader(world.store, written.manifest_id, world.pool, digests=True) as reader:
        report = await verify(reader, world.pool)
    assert (report.damage_count, report.digest) == (0, result.digest)
    assert report.chunks_checked == result.chunk_count == 6


async def test_frames_are_stored_byte_for_byte(world: World) -> None:
    disk = some_disk()
    for part, entry in zip(disk.parts, [*await entries_of(world, disk)][:2], strict=False):
        assert isinstance(part, Packed)
        assert entry.location.codec is Codec.RECORD
        assert await stored_bytes(world, entry) == part.frames


async def test_what_would_grow_is_stored_plain_and_what_has_no_frames_is_compressed(world: World) -> None:
    content = noise(1, RECORD)
    disk = RecordedDisk([packed(content), Packed(memoryview(half(2)), b"")])
    grown, made = await entries_of(world, disk)
    assert (grown.location.codec, grown.location.stored_length) == (Codec.RAW, RECORD)
    assert await stored_bytes(world, grown) == content
    assert made.location.codec is Codec.RECORD
    assert made.location.stored_length < RECORD * 6 // 10


async def test_a_record_of_zeros_is_no_chunk(world: World) -> None:
    disk = RecordedDisk([packed(bytes(RECORD)), packed(text(1, RECORD)), packed(bytes(RECORD))])
    assert [entry.start for entry in await entries_of(world, disk)] == [RECORD]
    assert (await stored(world, disk))[0].digest == tree_digest(disk.content())


async def test_the_same_records_are_stored_once(world: World) -> None:
    disk = some_disk()
    first, _ = await stored(world, disk)
    again, written = await stored(world, disk)
    assert (again.digest, again.new_size) == (first.digest, 0)
    assert await world.read_back(written.manifest_id) == disk.content()
    twice = RecordedDisk([packed(half(9)), packed(half(9), SOUND)])
    result, written = await stored(world, twice)
    assert result.new_size < RECORD
    assert await world.read_back(written.manifest_id) == twice.content()


async def test_records_and_chunks_never_stand_for_each_other(world: World) -> None:
    disk = some_disk()
    content = disk.content()
    sink = ListSink()
    async with DiskIngest(world.pool, world.target, sink) as ingest:
        await ingest.write(content)
        cut = await ingest.finish(len(content))
    result, written = await stored(world, disk)
    assert result.digest == cut.digest
    assert result.new_size > 0
    assert await world.read_back(written.manifest_id) == content


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_checkpoints_and_restarts_do_not_matter(seed: int) -> None:
    choose = random.Random(seed)
    kinds: list[Callable[[int], Packed | int]] = [
        lambda n: packed(text(n, RECORD)),
        lambda n: packed(half(n), SOUND, pieces=3),
        lambda n: packed(noise(n, RECORD)),
        lambda n: RECORD * (1 + n % 3),
    ]
    tail = Packed(memoryview(half(7, choose.choice([512, 4096, 65_536, 100_352, RECORD - 512]))), b"")
    parts: list[Packed | int] = [choose.choice(kinds)(n) for n in range(choose.randrange(1, 7))]
    ends: list[Packed | int] = [tail, 512 * choose.randrange(1, 300)]
    disk = RecordedDisk([*parts, choose.choice(ends)])

    async def ingest_in_steps() -> None:
        pool = DecodePool(2)
        try:
            expected = outline(await entries_of(World(pool), disk))
            world, sink, state, at = World(pool), SegmentSink(), None, 0
            committed: list[ChunkEntry] = []
            result = None
            while result is None:
                async with RecordIngest(pool, world.target, sink, start=state) as ingest:
                    while result is None:
                        if at == len(disk.parts):
                            result = await ingest.finish(len(disk.content()))
                            break
                        await feed(ingest, [disk.parts[at]])
                        at += 1
                        if choose.random() < 0.4:
                            state = IngestState.from_bytes((await ingest.checkpoint()).to_bytes())
                            committed += sink.take()
                            assert state.position == state.end == ingest.position
                            if choose.random() < 0.5:
                                break  # as after a crash
            committed += sink.take()
            rows = decode_segment(encode_segment(committed))
            assert len(rows.content) == len(committed)
            assert outline(committed) == expected
            assert result.digest == tree_digest(disk.content())
            assert await world.budget_is_whole()
        finally:
            pool.close()

    asyncio.run(ingest_in_steps())


@pytest.mark.parametrize("compressor", [BARE, SOUND])
async def test_records_leave_as_they_came(world: World, compressor: zstandard.ZstdCompressor) -> None:
    disk = RecordedDisk([packed(half(1), compressor, 5), RECORD, packed(text(2, RECORD), compressor)])
    _, written = await stored(world, disk)
    async with open_chunk_reader(world.store, written.manifest_id, world.pool) as reader:
        file = bytearray()
        writer = Zvhd2Writer(reader)
        for measure in writer.measure():
            await world.pool.run(measure)
        for piece in writer.pieces():
            for output in await world.pool.run(piece):
                file += output if isinstance(output, bytes | memoryview) else bytes(output.length)  # type: ignore[union-attr]
    for part in disk.parts:
        assert isinstance(part, int) or part.frames in file


async def test_frames_that_fit_a_message_travel_in_downloads(world: World) -> None:
    disk = RecordedDisk(
        [packed(text(2, RECORD), SOUND), packed(noise(1, MIB) + bytes(MIB - 4096) + b"x" * 4096)]
    )
    _, written = await stored(world, disk)
    async with open_chunk_reader(world.store, written.manifest_id, world.pool) as reader:
        writer = RawWriter(reader, may_frame=True)
        outputs = [output for piece in writer.pieces() for output in await world.pool.run(piece)]
    framed = [output for output in outputs if isinstance(output, Framed)]
    assert [output.length for output in framed] == [RECORD]
    assert all(len(output.frame) <= MIB for output in framed)


async def test_a_part_of_a_record_can_be_read(world: World) -> None:
    disk = some_disk()
    content = disk.content()
    _, written = await stored(world, disk)
    async with open_chunk_reader(world.store, written.manifest_id, world.pool) as reader:
        for start, length in (
            (0, 512),
            (RECORD - 100, 200),
            (5 * RECORD + 7, 3 * MIB),
            (len(content) - 512, 512),
        ):
            piece = bytearray(length)
            await world.pool.run(reader.read_into, start, memoryview(piece))
            assert bytes(piece) == content[start : start + length]


@pytest.mark.parametrize("at", [0, 100, -1])
async def test_an_altered_byte_of_a_record_is_seen(world: World, at: int) -> None:
    disk = RecordedDisk([packed(half(1)), packed(half(2))])
    _, written = await stored(world, disk)
    assert isinstance(world.store, MemoryStore)
    (blob,) = [BlobId(name) for name in await world.blobs("packs/")]
    content = bytearray(await get(world.store, blob))
    content[at] ^= 1
    await put(world.store, blob, bytes(content))
    with pytest.raises(DataLoss):
        await world.read_back(written.manifest_id)
    async with open_chunk_reader(world.store, written.manifest_id, world.pool, digests=True) as reader:
        report = await verify(reader, world.pool)
    assert report.damage_count == 1
    assert report.damage[0].length == RECORD


async def test_frames_that_are_of_something_else_are_seen_when_they_are_read(world: World) -> None:
    wrong = Packed(memoryview(half(1)), SOUND.compress(half(2)))
    short = Packed(memoryview(half(3)), SOUND.compress(half(4)[:-1]))
    _, written = await stored(world, RecordedDisk([wrong, short]))
    async with open_chunk_reader(world.store, written.manifest_id, world.pool, digests=True) as reader:
        report = await verify(reader, world.pool)
    assert report.damage_count == 2


async def test_nothing_follows_a_record_that_is_no_whole_leaf(world: World) -> None:
    async with RecordIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.add(Packed(memoryview(half(1, 1000 * 512)), b""))
        with pytest.raises(ValueError, match="nothing follows"):
            await ingest.write_zeros(512)
        with pytest.raises(ValueError, match="nothing follows"):
            await ingest.add(packed(half(2)))
    assert await world.budget_is_whole()


async def test_an_ingest_that_is_left_leaves_nothing(world: World) -> None:
    async with RecordIngest(world.pool, world.target, ListSink()) as ingest:
        await feed(ingest, some_disk().parts)
    assert await world.blobs() == []
    assert await world.budget_is_whole()


def test_a_kept_record_is_proved_by_its_check() -> None:
    plain = half(1)
    frames = BARE.compress(plain)
    kept = keep_record(b"d" * 32, memoryview(plain), frames)
    assert (kept.stored, kept.length, kept.codec) == (frames, RECORD, Codec.RECORD)
    assert len(kept.check) == 16
