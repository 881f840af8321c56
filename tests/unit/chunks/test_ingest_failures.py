"""What goes wrong while a disk is stored: errors surface, cancellation leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry, EntrySink
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.ingest import DiskIngest
from imsd.contract import (
    AlreadyExists,
    ByteRange,
    Conflict,
    DataLoss,
    ImageRefused,
    LimitExceeded,
    Unavailable,
)
from imsd.formats.source import Extent, FetchedSource, NeedBytes
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import JOB, MIB, ListSink, SparseDisk, World, noise

BIG = SparseDisk(70 * MIB, {0: noise(1, 68 * MIB)})  # more than a pack
SMALL = SparseDisk(10 * MIB, {0: noise(2, 9 * MIB)})


@pytest.fixture(autouse=True)
async def nothing_is_left(pool: DecodePool) -> AsyncIterator[None]:
    """No task of a test outlives it, and every window is given back."""
    tasks = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - tasks <= {asyncio.current_task()}
    assert await World(pool).budget_is_whole()


def faulty_world(pool: DecodePool, *faults: Fault) -> World:
    return World(pool, FaultyStore(MemoryStore(), *faults))


async def copy(world: World, disk: SparseDisk) -> None:
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        await ingest.copy_from(disk)
        await ingest.finish(disk.size_bytes)


async def push(world: World, disk: SparseDisk) -> None:
    content = memoryview(disk.content())
    async with DiskIngest(world.pool, world.target, ListSink()) as ingest:
        for start in range(0, len(content), MIB):
            await ingest.write(content[start : start + MIB])
        await ingest.finish(len(content))


@pytest.mark.parametrize("run", [copy, push])
@pytest.mark.parametrize("call", [Call.BEGIN, Call.WRITE, Call.COMMIT])
@pytest.mark.parametrize("skip", [0, 1])
async def test_a_failing_store_ends_the_ingest(pool: DecodePool, run, call: Call, skip: int) -> None:  # type: ignore[no-untyped-def]
    world = faulty_world(pool, Fault(call=call, kind=FaultKind.RAISE_BEFORE, skip=skip))
    with pytest.raises(Unavailable, match="out of reach"):
        await run(world, BIG)
    visible = await world.blobs("packs/")
    assert len(visible) <= skip, "only what was committed before the fault"


async def test_a_full_store_says_so(pool: DecodePool) -> None:
    world = World(pool, MemoryStore(capacity_bytes=20 * MIB))
    with pytest.raises(LimitExceeded) as refusal:
        await copy(world, BIG)
    assert refusal.value.reason == "CAPACITY_EXHAUSTED"
    usage = await world.store.usage()
    assert usage.used_bytes == 0, "the discarded pack takes no room"


@pytest.mark.parametrize("error", [lambda: Unavailable("timeout"), lambda: AlreadyExists("a retry found it")])
async def test_a_commit_whose_answer_was_lost_counts(pool: DecodePool, error) -> None:  # type: ignore[no-untyped-def]
    fault = Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER, prefix="packs/", error=error)
    world = faulty_world(pool, fault)
    await copy(world, SMALL)
    assert [row.state for row in world.index.packs.values()] == ["live"]


async def test_a_commit_of_unknown_outcome_without_a_blob_fails(pool: DecodePool) -> None:
    lost = lambda: Unavailable("timeout")  # noqa: E731
    world = faulty_world(pool, Fault(call=Call.COMMIT, kind=FaultKind.RAISE_BEFORE, error=lost))
    with pytest.raises(Unavailable, match="timeout"):
        await copy(world, SMALL)
    assert [row.state for row in world.index.packs.values()] == ["writing"]


async def test_a_blob_of_another_size_is_not_taken_for_ours(pool: DecodePool) -> None:
    class Forgetful(MemoryStore):
        def publish(self, blob, content):  # type: ignore[no-untyped-def]
            return super().publish(blob, content[:-1])

    with pytest.raises(DataLoss, match="were written"):
        await copy(World(pool, Forgetful()), SMALL)


async def test_a_run_that_was_taken_over_stores_nothing_more(pool: DecodePool) -> None:
    world = World(pool)
    world.index.fences[(HolderKind.JOB, JOB.id)] = JOB.fence + 1
    with pytest.raises(Conflict):
        await copy(world, SMALL)
    assert await world.blobs() == []
    newer = World(pool, world.store, world.index, Holder(HolderKind.JOB, JOB.id, JOB.fence + 1))
    await copy(newer, SMALL)
    assert len(await world.blobs("packs/")) == 1


async def test_an_error_of_the_sink_surfaces(pool: DecodePool) -> None:
    class FullSink(EntrySink):
        async def add(self, entries: Sequence[ChunkEntry]) -> None:
            raise LimitExceeded("no room for the manifest")

    world = World(pool)
    with pytest.raises(LimitExceeded, match="manifest"):
        async with DiskIngest(pool, world.target, FullSink()) as ingest:
            await ingest.copy_from(BIG)
    assert await world.blobs("packs/") == []


class TornDisk(SparseDisk):
    """Cannot be read from ``torn_at`` on."""

    torn_at = 30 * MIB

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > self.torn_at:
            raise ImageRefused("a table points outside the file")
        super().read_into(offset, buffer)


async def test_an_error_of_the_source_surfaces(pool: DecodePool) -> None:
    world = World(pool)
    with pytest.raises(ImageRefused, match="table"):
        await copy(world, TornDisk(BIG.size_bytes, BIG.pieces))
    assert await world.blobs("packs/") == []


async def test_after_an_error_of_a_step_the_next_write_raises_it(pool: DecodePool) -> None:
    world = faulty_world(pool, Fault(call=Call.WRITE, kind=FaultKind.RAISE_BEFORE))
    assert isinstance(world.store, FaultyStore)
    async with DiskIngest(pool, world.target, ListSink()) as ingest:
        await ingest.write(noise(1, 5 * MIB))  # the first window is on its way
        while not world.store.calls[Call.WRITE]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await ingest.write(b"x")


class DistantBytes(FetchedSource):
    """Never has what is asked for until it is fetched."""

    size_bytes = 1 << 40

    def __init__(self) -> None:
        self.at_hand: set[int] = set()

    def _read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    @asynccontextmanager
    async def fetching(self, ranges: Sequence[ByteRange]) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        fetched = {wanted.offset for wanted in ranges}
        self.at_hand |= fetched
        yield
        self.at_hand -= fetched


class DistantDisk(SparseDisk):
    """Asks for its bytes, and its extents, before it gives them."""

    def __init__(self, size_bytes: int, pieces: dict[int, bytes]) -> None:
        super().__init__(size_bytes, pieces)
        self.bytes = DistantBytes()

    def _require(self, offset: int) -> None:
        if offset not in self.bytes.at_hand:
            raise NeedBytes(self.bytes, [ByteRange(offset, 1)])

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        self._require(start)
        return super().extents(start, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = b"\xee" * len(buffer)
        self._require(offset)
        super().read_into(offset, buffer)


async def test_a_source_that_must_fetch_its_bytes_is_stored_the_same(pool: DecodePool) -> None:
    world = World(pool)
    result, manifest = await world.store_disk(DistantDisk(SMALL.size_bytes, SMALL.pieces))
    assert result.digest == SMALL.digest()
    assert await world.read_back(manifest.manifest_id) == SMALL.content()


@pytest.mark.parametrize("run", [copy, push])
@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03, 0.06, 0.1, 0.15])
async def test_cancellation_at_any_moment_leaves_no_pack(pool: DecodePool, run, delay: float) -> None:  # type: ignore[no-untyped-def]
    world = faulty_world(pool, Fault(call=Call.COMMIT, kind=FaultKind.HANG, times=None))
    task = asyncio.create_task(run(world, BIG))
    await asyncio.sleep(delay)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.blobs() == []
    assert (await world.store.usage()).used_bytes == 0
    assert all(row.state == "writing" for row in world.index.packs.values())
    assert world.index.chunks == {}


@pytest.mark.parametrize("call", [Call.BEGIN, Call.WRITE, Call.COMMIT])
async def test_a_store_that_hangs_can_be_cancelled_even_twice(pool: DecodePool, call: Call) -> None:
    world = faulty_world(pool, Fault(call=call, kind=FaultKind.HANG))
    assert isinstance(world.store, FaultyStore)
    task = asyncio.create_task(copy(world, SMALL))
    while not world.store.hanging:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.blobs() == []


async def test_after_a_cancelled_ingest_the_next_one_finds_what_was_committed(pool: DecodePool) -> None:
    world = World(pool)
    async with DiskIngest(pool, world.target, ListSink()) as ingest:
        await ingest.write(noise(1, 40 * MIB))
        await ingest.checkpoint()
    before = world.stored_bytes()
    result, _ = await world.store_disk(BIG)
    assert before > 39 * MIB
    assert result.new_size == 68 * MIB - before


async def test_an_ingest_that_is_left_unused_does_nothing(pool: DecodePool) -> None:
    world = World(pool)
    async with DiskIngest(pool, world.target, ListSink()):
        pass
    assert world.index.packs == {}
    assert await world.blobs() == []


@pytest.mark.parametrize("more", [0, 4096, 5 * MIB])
async def test_a_checkpoint_after_a_failure_tells_it(pool: DecodePool, more: int) -> None:
    """The step that failed never passes its turn on: a step that starts later would wait for ever."""
    world = faulty_world(pool, Fault(call=Call.BEGIN, kind=FaultKind.RAISE_BEFORE, prefix="packs/"))
    async with asyncio.timeout(10), DiskIngest(pool, world.target, ListSink()) as ingest:
        await ingest.write(noise(1, 5 * MIB))
        await asyncio.sleep(0.5)  # the step fails meanwhile, and the rest is submitted when nothing comes
        with pytest.raises(Unavailable):
            await write_and_checkpoint(ingest, noise(2, more))


async def write_and_checkpoint(ingest: DiskIngest, content: bytes) -> None:
    if content:
        await ingest.write(content)
    await ingest.checkpoint()
