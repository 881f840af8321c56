"""Chunks that move to other packs: the same disk, from another store or without the packs that it left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest

from imsd.chunks import relocate as relocating
from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.garbage import sweep
from imsd.chunks.index import Codec, Holder, HolderKind, content_blob, pack_blob
from imsd.chunks.manifest_reader import open_manifest
from imsd.chunks.manifest_writer import ManifestWriter, WrittenManifest
from imsd.chunks.record_ingest import RecordIngest
from imsd.chunks.relocate import Moving, Relocated, relocate
from imsd.contract import Conflict, DataLoss, NotFound, Unavailable
from imsd.formats.output import Packed
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import MIB, SparseDisk, World, noise, text
from tests.unit.chunks.stored_disk import get

MOVE = Holder(HolderKind.JOB, "job-2", 1)
IMAGE = Holder(HolderKind.IMAGE, "image-1")

DISK = SparseDisk(
    24 * MIB, {0: noise(1, 3 * MIB), 5 * MIB: text(2, 4 * MIB), 12 * MIB: noise(1, 3 * MIB), 20 * MIB: b"end"}
)


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool)


@pytest.fixture
def elsewhere(world: World) -> World:
    return World(world.pool, MemoryStore(), world.index, MOVE, "second")


async def published(world: World, written: WrittenManifest) -> str:
    """Only the image holds it."""
    await world.index.publish_manifest(world.holder, written.manifest_id, written.packs)
    await world.index.hold_manifest(IMAGE, written.manifest_id)
    await world.index.release(world.holder)
    return written.manifest_id


async def stored(world: World, disk: SparseDisk = DISK) -> str:
    return await published(world, (await world.store_disk(disk))[1])


async def moved(
    world: World, manifest_id: str, to: World, packs: frozenset[str] | None = None, told: Sequence[int] = ()
) -> Relocated:
    manifest = await open_manifest(world.store, manifest_id, world.pool)
    progress = told if isinstance(told, list) else []
    return await relocate(
        Moving(world.store, manifest, packs), world.pool, to.target, on_progress=progress.append
    )


async def test_a_moved_disk_is_the_same_and_needs_nothing_of_its_old_store(
    world: World, elsewhere: World
) -> None:
    old_id = await stored(world)
    old_content = await get(world.store, content_blob(old_id))
    told: list[int] = []
    relocated = await moved(world, old_id, elsewhere, told=told)
    new_id = await published(elsewhere, relocated.written)
    assert set(relocated.written.packs).isdisjoint(await packs_of(world, old_id))
    assert await get(elsewhere.store, content_blob(new_id)) == old_content
    await world.index.release(IMAGE)
    await world.index.hold_manifest(IMAGE, new_id)
    await sweep(world.store, "main", world.index)
    assert await world.blobs() == []
    assert await elsewhere.read_back(new_id) == DISK.content()
    async with open_chunk_reader(elsewhere.store, new_id, world.pool) as reader:
        assert reader.digest == DISK.digest()
    assert told == sorted(told)
    assert told[-1] == relocated.written.data_size == 10 * MIB + 4096
    assert await world.budget_is_whole()


async def packs_of(world: World, manifest_id: str) -> Sequence[str]:
    return (await open_manifest(world.store, manifest_id, world.pool)).pack_ids


async def test_a_chunk_that_a_disk_has_twice_is_copied_once(world: World, elsewhere: World) -> None:
    result, written = await world.store_disk(DISK)
    relocated = await moved(world, await published(world, written), elsewhere)
    assert relocated.copied_bytes == result.new_size == relocated.written.stored_size == written.stored_size
    assert relocated.written.chunk_count == written.chunk_count


async def test_what_the_other_store_has_is_not_copied(world: World, elsewhere: World) -> None:
    await stored(elsewhere, SparseDisk(4 * MIB, {0: noise(1, 3 * MIB)}))
    result, written = await world.store_disk(DISK)
    relocated = await moved(world, await published(world, written), elsewhere)
    assert relocated.copied_bytes < result.new_size - 2 * MIB
    assert await elsewhere.read_back(relocated.written.manifest_id) == DISK.content()


async def test_another_domain_of_the_store_is_not_looked_into(world: World, elsewhere: World) -> None:
    await stored(elsewhere)
    manifest = await open_manifest(world.store, await stored(world), world.pool)
    target = elsewhere.target
    strange = type(target)(target.store, target.store_name, target.index, "enc/image-1", target.holder)
    relocated = await relocate(Moving(world.store, manifest), world.pool, strange)
    assert relocated.copied_bytes == relocated.written.stored_size


async def test_an_empty_disk_moves(world: World, elsewhere: World) -> None:
    disk = SparseDisk(MIB, {})
    relocated = await moved(world, await stored(world, disk), elsewhere)
    assert (relocated.copied_bytes, list(relocated.written.packs)) == (0, [])
    assert await elsewhere.read_back(relocated.written.manifest_id) == disk.content()


async def test_records_of_a_fast_import_move_as_they_came(world: World, elsewhere: World) -> None:
    plain = [text(1, 2 * MIB), noise(2, 2 * MIB)]
    async with (
        ManifestWriter(world.target) as writer,
        RecordIngest(world.pool, world.target, writer) as ingest,
    ):
        for record in plain:
            await ingest.add(Packed(memoryview(record), b""))
        result = await ingest.finish(4 * MIB)
        written = await writer.commit(4 * MIB, result.digest)
    relocated = await moved(world, await published(world, written), elsewhere)
    assert await elsewhere.read_back(relocated.written.manifest_id) == b"".join(plain)
    manifest = await open_manifest(elsewhere.store, relocated.written.manifest_id, world.pool)
    chunks = await world.pool.run(manifest.chunks, 0, 4 * MIB)
    assert [chunk.codec for chunk in chunks] == [Codec.RECORD, Codec.RAW]


async def test_a_damaged_chunk_does_not_travel(world: World, elsewhere: World) -> None:
    manifest_id = await stored(world)
    (pack, *_) = await packs_of(world, manifest_id)
    faulty = FaultyStore(world.store)
    faulty.add(Fault(call=Call.READ, kind=FaultKind.CORRUPT, prefix="packs/"))
    world.store = faulty
    with pytest.raises(DataLoss, match=f"guest offset .*{pack}"):
        await moved(world, manifest_id, elsewhere)
    await world.index.release(MOVE)
    await sweep(elsewhere.store, "second", world.index)
    assert await elsewhere.blobs() == []
    assert await world.budget_is_whole()


async def test_a_zombie_moves_nothing(world: World, elsewhere: World) -> None:
    manifest_id = await stored(world)
    world.index.fences[MOVE.kind, MOVE.id] = MOVE.fence + 1
    with pytest.raises(Conflict):
        await moved(world, manifest_id, elsewhere)
    assert await elsewhere.blobs() == []


# -- again -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd.chunks.pack_writer.MAX_PACK_BYTES", MIB)
    monkeypatch.setattr(relocating, "BATCH_BYTES", MIB // 4)


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("commits", range(6))
async def test_a_run_after_a_cut_copies_only_what_is_lacking(
    world: World, elsewhere: World, commits: int
) -> None:
    result, written = await world.store_disk(DISK)
    manifest_id = await published(world, written)
    faulty = FaultyStore(elsewhere.store)
    faulty.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_BEFORE, skip=commits, times=None))
    cut = World(world.pool, faulty, world.index, MOVE, "second")
    with pytest.raises(Unavailable):
        await moved(world, manifest_id, cut)
    live = sum(row.size_bytes for row in world.index.packs.values() if row.store == "second")
    assert (live > 0) == (commits > 0)
    again = Holder(MOVE.kind, MOVE.id, 2)
    relocated = await moved(
        world, manifest_id, World(world.pool, elsewhere.store, world.index, again, "second")
    )
    assert relocated.copied_bytes == result.new_size - live
    assert await elsewhere.read_back(relocated.written.manifest_id) == DISK.content()
    await published(elsewhere, relocated.written)
    await sweep(elsewhere.store, "second", world.index)
    assert len(await elsewhere.blobs()) == len(relocated.written.packs) + 2


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("turns", [1, 5, 20, 60, 150])
async def test_a_cancelled_run_leaves_no_task_and_no_open_pack(
    world: World, elsewhere: World, turns: int
) -> None:
    manifest_id = await stored(world)
    before = asyncio.all_tasks()
    task = asyncio.create_task(moved(world, manifest_id, elsewhere))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert asyncio.all_tasks() == before
    assert await world.budget_is_whole()
    await world.index.release(MOVE)
    await sweep(elsewhere.store, "second", world.index)
    assert await elsewhere.blobs() == []


# -- within a store ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_packs")
async def test_only_chunks_of_the_packs_that_are_left_are_copied(world: World) -> None:
    old_id = await stored(world)
    packs = await packs_of(world, old_id)
    left = frozenset(packs[1:3])
    sizes = {pack: world.index.packs[pack].size_bytes for pack in packs}
    mover = World(world.pool, world.store, world.index, MOVE)
    relocated = await moved(world, old_id, mover, left)
    assert left.isdisjoint(relocated.written.packs)
    assert set(packs) - left < set(relocated.written.packs)
    assert relocated.copied_bytes == sum(sizes[pack] for pack in left)
    new_id = await published(mover, relocated.written)
    await world.index.release(IMAGE)
    await world.index.hold_manifest(IMAGE, new_id)
    await sweep(world.store, "main", world.index)
    assert {pack_blob(pack) for pack in left}.isdisjoint(await world.blobs("packs/"))
    assert await world.read_back(new_id) == DISK.content()
    # Its chunks are found where they lie now.
    result, _ = await world.store_disk(DISK)
    assert result.new_size == 0


@pytest.mark.usefixtures("small_packs")
async def test_a_repacking_that_is_done_again_finds_what_it_copied(world: World) -> None:
    old_id = await stored(world)
    left = frozenset(await packs_of(world, old_id))
    mover = World(world.pool, world.store, world.index, MOVE)
    first = await moved(world, old_id, mover, left)
    second = await moved(world, old_id, mover, left)
    assert (first.copied_bytes > 0, second.copied_bytes) == (True, 0)


async def test_a_manifest_that_nobody_holds_is_not_repacked(world: World) -> None:
    _, written = await world.store_disk(DISK)  # never published
    mover = World(world.pool, world.store, world.index, MOVE)
    with pytest.raises(NotFound):
        await moved(world, written.manifest_id, mover, frozenset(written.packs))


async def test_ids_come_from_who_asks(world: World, elsewhere: World) -> None:
    numbers = count()
    manifest = await open_manifest(world.store, await stored(world), world.pool)
    relocated = await relocate(
        Moving(world.store, manifest),
        world.pool,
        elsewhere.target,
        new_id=lambda: f"{next(numbers):032x}",
    )
    assert relocated.written.manifest_id == f"{0:032x}"
    assert list(relocated.written.packs) == [f"{1:032x}"]


# -- encrypted -----------------------------------------------------------------------------------------


@pytest.fixture
def sealed(pool: DecodePool) -> World:
    return World(pool, cipher=ChunkCipher(noise(1, 32), "image-1"))


def without_key(world: World, store: MemoryStore, store_name: str) -> World:
    """Where chunks of an encrypted disk may go, for who has no key."""
    return World(world.pool, store, world.index, MOVE, store_name, cipher=world.cipher)


async def relocated_without_key(
    sealed: World, manifest_id: str, to: World, packs: frozenset[str] | None = None
) -> Relocated:
    manifest = await open_manifest(sealed.store, manifest_id, sealed.pool)
    target = replace(to.target, cipher=None)
    return await relocate(Moving(sealed.store, manifest, packs), sealed.pool, target)


async def test_an_encrypted_disk_moves_without_its_key(sealed: World) -> None:
    result, written = await sealed.store_disk(DISK)
    manifest_id = await published(sealed, written)
    elsewhere = without_key(sealed, MemoryStore(), "second")
    relocated = await relocated_without_key(sealed, manifest_id, elsewhere)
    new_id = relocated.written.manifest_id
    assert await elsewhere.read_back(new_id) == DISK.content()
    assert await get(elsewhere.store, content_blob(new_id)) == await get(
        sealed.store, content_blob(manifest_id)
    )
    assert relocated.copied_bytes == result.new_size
    again = await relocated_without_key(sealed, manifest_id, elsewhere)
    assert again.copied_bytes == 0


@pytest.mark.usefixtures("small_packs")
async def test_an_encrypted_disk_is_repacked_without_its_key(sealed: World) -> None:
    manifest_id = await published(sealed, (await sealed.store_disk(DISK))[1])
    left = frozenset((await packs_of(sealed, manifest_id))[:2])
    assert isinstance(sealed.store, MemoryStore)
    mover = without_key(sealed, sealed.store, "main")
    relocated = await relocated_without_key(sealed, manifest_id, mover, left)
    assert left.isdisjoint(relocated.written.packs)
    assert await sealed.read_back(relocated.written.manifest_id) == DISK.content()
