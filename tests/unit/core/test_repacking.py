"""Repacking: what is needed leaves packs that are mostly dead, whoever reads it meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from imsd.chunks.index import pack_blob
from imsd.chunks.relocate import relocate
from imsd.contract import FailedPrecondition, InvalidRequest
from imsd.core.downloads import open_image_reader
from imsd.core.jobs import JobView
from imsd.core.store_upkeep import repack_jobs
from imsd.core.store_upkeep.counting import PackCounting
from imsd.core.store_upkeep.repack_jobs import NewRepacking, RepackJobs
from imsd.core.store_upkeep.space import Space
from imsd.metadata import pack_space
from imsd.metadata.database import Database
from imsd.metadata.pack_space import PackedSpace
from imsd.metadata.records import JobState
from tests.unit.chunks.stored_disk import exists
from tests.unit.core.copy_world import delete, verified
from tests.unit.core.core_world import STORE
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld
from tests.unit.core.test_scrub import damage, flip, key, packs, scrubbed
from tests.unit.core.test_space import imported, noise

PARTS = [noise(seed, MIB) for seed in range(8)]


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


async def repacked(service: ImportService, percent: int = 40, *, is_dry_run: bool = False) -> JobView:
    jobs = RepackJobs(service.runtime, service.dispatcher, 0)
    job_id = await jobs.start(key(), NewRepacking(STORE, percent, is_dry_run))
    view = await service.end_of(job_id)
    assert view.record.state is JobState.SUCCESS, view
    while service.dispatcher._supervisors:
        await asyncio.sleep(0.001)
    await service.runtime.background.settle()
    await service.sweeper.free(STORE)
    return view


async def packed(service: ImportService) -> PackedSpace:
    await PackCounting(service.runtime).count_store(STORE)
    async with service.runtime.database.reading() as c:
        return await pack_space.packed_space(c, STORE)


async def test_dead_bytes_go_and_every_image_reads_as_before(world: ImportWorld) -> None:
    async with world.serving(upload_part_bytes=4 * MIB) as service:
        first = await imported(service, *PARTS, name="first")
        second = await imported(service, PARTS[1], PARTS[6], name="second")
        third = await imported(service, PARTS[6], name="third")
        await delete(service, first)
        before = await packed(service)
        assert before.pack_bytes > 3 * MIB
        assert before.live_bytes == 2 * MIB
        planned = (await repacked(service, 1, is_dry_run=True)).record.result
        assert planned["dead_bytes"] == before.pack_bytes - 2 * MIB
        assert (await packed(service)).pack_bytes == before.pack_bytes
        done = (await repacked(service, 1)).record.result
        assert (done["manifests"], done["images"], done["copied_bytes"]) == (2, 2, 2 * MIB)
        after = await packed(service)
        assert (after.pack_bytes, after.live_bytes) == (2 * MIB, 2 * MIB)
        for image in (second, third):
            now = await service.image(image.id)
            assert now.manifest_id != image.manifest_id
            assert now.version == image.version
            await verified(service, now)
        # What two images share still lies once, and is still found by imports.
        fourth = await imported(service, PARTS[6], name="fourth")
        assert fourth.new_size == 0
        left = await service.left()
        assert (left["image"], left["manifest"], left["blobs"] - left["pack"]) == (3, 3, 6)


async def test_who_reads_an_image_is_not_disturbed(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, *PARTS[:4], name="first")
        second = await imported(service, PARTS[1], name="second")
        await delete(service, first)
        async with open_image_reader(service.runtime, service.sweeper, second) as reader:
            await repacked(service, 1)
            content = bytearray(MIB)
            await service.runtime.pool.run(reader.read_into, 0, memoryview(content))
            assert bytes(content) == PARTS[1]
        # One that looked at the image before reads what it has now.
        async with open_image_reader(service.runtime, service.sweeper, second) as reader:
            await service.runtime.pool.run(reader.read_into, 0, memoryview(content))
        await service.runtime.background.settle()
        await service.sweeper.free(STORE)
        assert (await packed(service)).pack_bytes == MIB


async def test_a_copy_switches_with_its_image(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, *PARTS[:4], name="first")
        second = await imported(service, PARTS[1], name="second")
        from imsd.core.image_copies import NewCopy

        copying = await service.copies.start(key(), NewCopy(image_id=second.id, name="copy"))
        copy = (await service.end_of(copying)).record.image_id
        await delete(service, first)
        done = (await repacked(service, 1)).record.result
        assert (done["manifests"], done["images"]) == (1, 2)
        assert (await service.image(copy)).manifest_id == (await service.image(second.id)).manifest_id
        await delete(service, await service.image(second.id))
        await verified(service, await service.image(copy))


async def test_a_damaged_image_keeps_its_packs_and_stops_nothing(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, *PARTS[:4], name="first")
        second = await imported(service, PARTS[1], name="second")
        third = await imported(service, PARTS[2], name="third")
        await delete(service, first)
        for pack_id in await packs(service, second):
            await flip(service, pack_blob(pack_id), 0)  # of one of its chunks, or of a dead one
        done = (await repacked(service, 1)).record.result
        assert done["skipped_manifests"] in (0, 1)
        await verified(service, await service.image(third.id))
        for pack_id in await packs(service, await service.image(second.id)):
            assert await exists(service.runtime.stores.get(STORE), pack_blob(pack_id))


async def test_images_that_were_repacked_are_still_affected_by_what_a_scrub_found(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, *PARTS[:4], name="first")
        second = await imported(service, PARTS[1], PARTS[5], name="second")
        own = min(set(await packs(service, second)) - set(await packs(service, first)))
        await delete(service, first)
        await flip(service, pack_blob(own))
        await scrubbed(service)
        before = await damage(service)
        assert [[image.name for image in each.images] for each in before] == [["second"]]
        assert (await repacked(service, 20)).record.result["images"] == 1
        [found] = await damage(service)
        now = await service.image(second.id)
        assert now.manifest_id != second.manifest_id
        assert (found.record.manifest_id, [image.name for image in found.images]) == (
            now.manifest_id,
            ["second"],
        )
        assert found.record.found_at == before[0].record.found_at


async def test_the_report_is_of_those_packs_that_one_job_empties(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imsd.core.workflows.repack_store as workflow

    async with world.serving(upload_part_bytes=MIB) as service:
        for name, parts in (("first", PARTS[:4]), ("second", PARTS[4:])):
            mostly_dead = await imported(service, *parts, name=name)
            await imported(service, parts[1], name=f"{name} needed")
            await delete(service, mostly_dead)
        whole = (await repacked(service, 1, is_dry_run=True)).record.result
        assert whole["pack_count"] > 1
        monkeypatch.setattr(workflow, "MAX_PACKS", 1)
        half = (await repacked(service, 1, is_dry_run=True)).record.result
        assert half["pack_count"] == 1
        assert 0 < half["dead_bytes"] < half["pack_bytes"] < whole["pack_bytes"]
        done = (await repacked(service, 1)).record.result
        assert (done["pack_count"], done["dead_bytes"]) == (1, half["dead_bytes"])


async def test_a_job_that_is_broken_off_is_done_again(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imsd.core.workflows.repack_store as workflow

    real, hold, done = relocate, asyncio.Event(), [0]

    async def slow(*args: object, **options: object) -> object:
        moved = await real(*args, **options)  # type: ignore[arg-type]
        done[0] += 1
        if done[0] == 2:  # copied, and not switched
            hold.set()
            await asyncio.Event().wait()
        return moved

    monkeypatch.setattr(workflow, "relocate", slow)
    async with world.serving() as service:
        first = await imported(service, *PARTS[:6], name="first")
        others = [await imported(service, PARTS[n], name=f"image-{n}") for n in (1, 3, 5)]
        await delete(service, first)
        jobs = RepackJobs(service.runtime, service.dispatcher, 0)
        job_id = await jobs.start(key(), NewRepacking(STORE, 1))
        await hold.wait()
    async with world.serving() as service:
        assert (await service.end_of(job_id)).record.state is JobState.SUCCESS
        await service.left()
        assert (await packed(service)).pack_bytes == 3 * MIB
        for image in others:
            await verified(service, await service.image(image.id))


async def test_one_that_is_cancelled_leaves_nothing(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imsd.core.workflows.repack_store as workflow

    real, hold = relocate, asyncio.Event()

    async def endless(*args: object, **options: object) -> object:
        await real(*args, **options)  # type: ignore[arg-type]
        hold.set()
        return await asyncio.Event().wait()

    monkeypatch.setattr(workflow, "relocate", endless)
    async with world.serving() as service:
        first = await imported(service, *PARTS[:4], name="first")
        second = await imported(service, PARTS[1], name="second")
        await delete(service, first)
        before = await service.left()
        jobs = RepackJobs(service.runtime, service.dispatcher, 0)
        job_id = await jobs.start(key(), NewRepacking(STORE, 1))
        await hold.wait()
        with pytest.raises(FailedPrecondition) as refused:
            await jobs.start(key(), NewRepacking(STORE, 1))
        assert refused.value.reason == "REPACK_RUNNING"
        await service.jobs.cancel(PROJECT, job_id)
        assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
        after = await service.left()
        before.pop("chunk"), after.pop("chunk", 0)  # the packs that were to go are not found any more
        assert after == before
        await verified(service, await service.image(second.id))


async def test_it_begins_by_itself_when_enough_is_dead(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repack_jobs, "MIN_DEAD_BYTES", 2 * MIB)
    async with world.serving() as service:
        first = await imported(service, *PARTS[:4], name="first")
        second = await imported(service, PARTS[1], name="second")
        jobs = RepackJobs(service.runtime, service.dispatcher, 1)
        await PackCounting(service.runtime).count_store(STORE)
        await jobs.start_if_due(STORE)
        assert not service.dispatcher._supervisors
        await delete(service, first)
        await PackCounting(service.runtime).count_store(STORE)
        before = (await packed(service)).pack_bytes
        monkeypatch.setattr(repack_jobs, "MIN_DEAD_BYTES", before - MIB)
        await RepackJobs(service.runtime, service.dispatcher, 0).start_if_due(STORE)
        assert not service.dispatcher._supervisors  # switched off
        await jobs.start_if_due(STORE)
        assert len(service.dispatcher._supervisors) == 1
        await service.left()
        assert (await packed(service)).pack_bytes == MIB
        assert (
            await Space(service.runtime, PackCounting(service.runtime)).of_image(PROJECT, second.id)
        ).unique_bytes == MIB


async def test_no_chunk_becomes_findable_for_another_project(world: ImportWorld) -> None:
    async with world.serving() as service:
        images = []
        for project, parts in ((PROJECT, PARTS[:4]), ("other", PARTS[4:])):
            service.project_id = project
            mostly_dead = await imported(service, *parts, name="first")
            images.append(await imported(service, parts[1], name="second"))
            await delete(service, mostly_dead)
        service.project_id = PROJECT
        assert (await repacked(service, 1)).record.result["manifests"] == 2
        async with service.runtime.database.reading() as c:
            rows = await c.exec_driver_sql(
                "SELECT DISTINCT image.project_id, chunk.domain FROM image"
                " JOIN pack_reference ON pack_reference.holder_id = image.manifest_id"
                " JOIN chunk ON chunk.pack_id = pack_reference.pack_id"
            )
            assert sorted(map(tuple, rows)) == sorted((each.project_id, each.project_id) for each in images)


@pytest.mark.parametrize("percent", [0, 100, -1])
async def test_a_share_that_cannot_be_is_refused(world: ImportWorld, percent: int) -> None:
    async with world.serving() as service:
        with pytest.raises(InvalidRequest):
            await RepackJobs(service.runtime, service.dispatcher, 0).start(
                key(), NewRepacking(STORE, percent)
            )
