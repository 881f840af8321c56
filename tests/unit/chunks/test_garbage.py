"""The sweep: what goes, what stays, and what is left when it is interrupted."""

from __future__ import annotations

import asyncio

import pytest

from imsd.chunks.garbage import SweepReport, sweep
from imsd.chunks.index import (
    Codec,
    Holder,
    HolderKind,
    IndexedChunk,
    Location,
    content_blob,
    locations_blob,
    pack_blob,
)
from imsd.chunks.staged_source import staging_blob
from imsd.contract import BlobStore, Conflict, Unavailable, blob_id
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_index import MemoryChunkIndex
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import exists, put

STORE = "main"
JOB = Holder(HolderKind.JOB, "job-1", 1)
IMAGE = Holder(HolderKind.IMAGE, "image-1")
BYTES = b"stored bytes"


def new_id(number: int) -> str:
    return f"{number:032x}"


async def make_pack(store: BlobStore, index: MemoryChunkIndex, number: int, holder: Holder = JOB) -> str:
    pack_id = new_id(number)
    await index.begin_pack(holder, pack_id, STORE)
    await put(store, pack_blob(pack_id), BYTES)
    digest = number.to_bytes(32, "big")
    chunk = IndexedChunk(digest, Location(pack_id, 0, len(BYTES), len(BYTES), Codec.RAW, bytes(16)))
    await index.commit_pack(holder, "domain", pack_id, len(BYTES), [chunk])
    return pack_id


async def make_image(store: BlobStore, index: MemoryChunkIndex, number: int, packs: list[str]) -> str:
    manifest_id = new_id(1000 + number)
    await index.begin_manifest(JOB, manifest_id, STORE)
    await put(store, content_blob(manifest_id), BYTES)
    await put(store, locations_blob(manifest_id), BYTES)
    await index.publish_manifest(JOB, manifest_id, packs)
    await index.hold_manifest(IMAGE, manifest_id)
    return manifest_id


async def blobs_of(store: BlobStore) -> set[str]:
    return {stored.id async for stored in store.list()}


async def test_what_is_held_stays() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    pack_id = await make_pack(store, index, 1)
    await make_image(store, index, 1, [pack_id])
    other = await make_pack(store, index, 2)
    before = await blobs_of(store)
    assert await sweep(store, STORE, index) == SweepReport()
    assert await blobs_of(store) == before
    await index.release(JOB)
    report = await sweep(store, STORE, index)
    assert report == SweepReport(packs_removed=1, bytes_freed=len(BYTES))
    assert before - await blobs_of(store) == {pack_blob(other)}


async def test_a_deleted_image_goes_with_all_its_blobs() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    pack_id = await make_pack(store, index, 1)
    manifest_id = await make_image(store, index, 1, [pack_id])
    await put(store, locations_blob(manifest_id, 3), BYTES)  # a rewritten generation
    await index.release(JOB)
    await index.release(IMAGE)
    report = await sweep(store, STORE, index)
    assert report == SweepReport(manifests_removed=1, packs_removed=1, bytes_freed=4 * len(BYTES))
    assert await blobs_of(store) == set()
    assert index.packs == {}
    assert index.manifests == {}
    assert await index.find(JOB, STORE, "domain", [(1).to_bytes(32, "big")]) == {}


async def test_a_pack_shared_with_a_living_image_stays() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    pack_id = await make_pack(store, index, 1)
    await make_image(store, index, 1, [pack_id])
    second = new_id(2000)
    await index.begin_manifest(JOB, second, STORE)
    await index.publish_manifest(JOB, second, [pack_id])
    await index.hold_manifest(Holder(HolderKind.READER, "reader"), second)
    await index.release(JOB)
    await index.release(IMAGE)
    assert (await sweep(store, STORE, index)).packs_removed == 0
    assert await exists(store, pack_blob(pack_id))


async def test_an_abandoned_import_leaves_nothing() -> None:
    """Rows without blobs, blobs with and without rows: whatever a crash left."""
    store, index = MemoryStore(), MemoryChunkIndex()
    await index.begin_pack(JOB, new_id(1), STORE)  # crashed before its first byte was visible
    await index.begin_pack(JOB, new_id(2), STORE)  # crashed between the blob and its commit
    await put(store, pack_blob(new_id(2)), BYTES)
    await make_pack(store, index, 3)
    await index.begin_manifest(JOB, new_id(4), STORE)
    await put(store, content_blob(new_id(4)), BYTES)
    await index.release(JOB)
    report = await sweep(store, STORE, index)
    assert report == SweepReport(manifests_removed=1, packs_removed=3, bytes_freed=3 * len(BYTES))
    assert await blobs_of(store) == set()


async def test_blobs_without_rows_go_and_foreign_ones_stay() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    kept = await make_pack(store, index, 1)
    orphans = [pack_blob(new_id(77)), content_blob(new_id(78)), locations_blob(new_id(78), 2)]
    names = ["packs/readme", "packs/re/readme", "manifests/readme", "manifests/lost_found/readme", "a/b/c"]
    foreign = [blob_id(name) for name in (*names, f"packs/00/{'f' * 32}")]
    for blob in (*orphans, *foreign):
        await put(store, blob, BYTES)
    assert (await sweep(store, STORE, index, find_orphans=False)).orphans_removed == 0
    report = await sweep(store, STORE, index)
    assert report == SweepReport(orphans_removed=3, bytes_freed=3 * len(BYTES))
    assert await blobs_of(store) == {*foreign, pack_blob(kept)}


async def test_staged_parts_of_unknown_uploads_go() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    for upload in ("known", "lost"):
        for number in range(3):
            await put(store, staging_blob(upload, number), BYTES)
    assert (await sweep(store, STORE, index)).orphans_removed == 0

    async def known_uploads(ids: list[str]) -> set[str]:
        return {"known"} & set(ids)

    report = await sweep(store, STORE, index, known_uploads=known_uploads)
    assert report == SweepReport(orphans_removed=3, bytes_freed=3 * len(BYTES))
    assert await blobs_of(store) == {staging_blob("known", number) for number in range(3)}


async def test_more_than_a_batch_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd.chunks.garbage.BATCH", 3)
    store, index = MemoryStore(), MemoryChunkIndex()
    for number in range(10):
        await make_pack(store, index, number)
        await put(store, pack_blob(new_id(500 + number)), BYTES)
    kept = await make_pack(store, index, 400, IMAGE)
    await index.release(JOB)
    report = await sweep(store, STORE, index)
    assert (report.packs_removed, report.orphans_removed) == (10, 10)
    assert await blobs_of(store) == {pack_blob(kept)}


async def test_a_blob_that_cannot_be_deleted_stops_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd.chunks.garbage.BATCH", 2)
    store, index = FaultyStore(MemoryStore()), MemoryChunkIndex()
    for number in range(6):
        await make_pack(store, index, number)
    await index.release(JOB)
    stubborn = pack_blob(new_id(2))
    store.add(Fault(call=Call.DELETE, kind=FaultKind.RAISE_BEFORE, prefix=stubborn, times=None))
    report = await sweep(store, STORE, index)
    assert report.packs_removed == 5
    assert report.failure_count >= 1
    assert stubborn in report.first_failure
    assert await blobs_of(store) == {stubborn}
    assert set(index.packs) == {new_id(2)}
    store.heal()
    assert (await sweep(store, STORE, index)).packs_removed == 1
    assert index.packs == {}


async def test_a_manifest_keeps_its_row_until_all_its_blobs_are_gone() -> None:
    store, index = FaultyStore(MemoryStore()), MemoryChunkIndex()
    manifest_id = await make_image(store, index, 1, [])
    await index.release(JOB)
    await index.release(IMAGE)
    fault = Fault(call=Call.DELETE, kind=FaultKind.RAISE_BEFORE, prefix=locations_blob(manifest_id))
    store.add(fault)
    assert (await sweep(store, STORE, index, find_orphans=False)).manifests_removed == 0
    assert index.manifests[manifest_id].state == "condemned"
    assert (await sweep(store, STORE, index)).manifests_removed == 1
    assert await blobs_of(store) == set()


async def test_a_store_that_cannot_be_listed_ends_the_sweep() -> None:
    store, index = FaultyStore(MemoryStore()), MemoryChunkIndex()
    store.add(Fault(call=Call.LIST, kind=FaultKind.RAISE_BEFORE))
    with pytest.raises(Unavailable):
        await sweep(store, STORE, index)


@pytest.mark.parametrize("skip", range(6))
@pytest.mark.parametrize("call", [Call.STAT, Call.DELETE, Call.LIST])
async def test_a_sweep_killed_anywhere_is_finished_by_the_next(call: Call, skip: int) -> None:
    store, index = FaultyStore(MemoryStore()), MemoryChunkIndex()
    kept = await make_pack(store, index, 100, IMAGE)
    packs = [await make_pack(store, index, number) for number in range(3)]
    manifest_id = await make_image(store, index, 1, packs)
    await put(store, pack_blob(new_id(200)), BYTES)
    await index.release(JOB)
    index.manifests[manifest_id].held_by.clear()
    store.add(Fault(call=call, kind=FaultKind.HANG, skip=skip))
    task = asyncio.create_task(sweep(store, STORE, index))
    while not task.done() and not store.hanging:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    store.heal()
    await sweep(store, STORE, index)
    assert await blobs_of(store) == {pack_blob(kept)}
    assert set(index.packs) == {kept}
    assert index.manifests == {}


async def test_a_pack_begun_while_the_sweep_lists_is_not_taken_for_an_orphan() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    for number in range(50):
        await put(store, pack_blob(new_id(5000 + number)), BYTES)  # orphans, so that the sweep has work
    made: list[str] = []

    async def keep_writing() -> None:
        for number in range(200):
            made.append(await make_pack(store, index, number))

    writing = asyncio.create_task(keep_writing())
    reports = []
    while not writing.done():
        reports.append(await sweep(store, STORE, index))
        await asyncio.sleep(0)
    await writing
    assert {pack_blob(pack_id) for pack_id in made} == await blobs_of(store)
    assert sum(report.orphans_removed for report in reports) == 50


async def test_a_zombie_that_goes_on_after_the_sweep_stores_nothing_that_stays() -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    pack_id = new_id(1)
    await index.begin_pack(JOB, pack_id, STORE)
    await index.release(JOB)
    await sweep(store, STORE, index)
    await put(store, pack_blob(pack_id), BYTES)  # its commit was on the way
    with pytest.raises(Conflict):
        await index.commit_pack(JOB, "domain", pack_id, len(BYTES), [])
    assert (await sweep(store, STORE, index)).orphans_removed == 1
    assert await blobs_of(store) == set()
