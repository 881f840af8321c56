"""What images and projects take: counted from their manifests, whoever shares what with whom."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from imsd.chunks.index import Holder, HolderKind, locations_blob
from imsd.contract import FailedPrecondition, NotFound, PermissionDenied
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import ImageDeletion
from imsd.core.store_pool import StorePool
from imsd.core.store_upkeep.counting import PackCounting
from imsd.core.store_upkeep.scrub_jobs import ScrubSettings
from imsd.core.store_upkeep.space import Space
from imsd.core.store_upkeep.upkeep import StoreUpkeep, UpkeepSettings
from imsd.metadata import chunk_index, pack_space
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, JobKind, JobRecord
from imsd.testing.faulty_store import Call, Fault, FaultKind
from tests.unit.chunks.stored_disk import put
from tests.unit.core.copy_world import delete
from tests.unit.core.core_world import STORE
from tests.unit.core.import_world import MIB, PROJECT, SECOND, ImportService, ImportWorld


def noise(seed: int, size: int = MIB) -> bytes:
    return random.Random(seed).randbytes(size)


# Zeros between the parts end a chunk, so that equal parts are equal chunks.
GAP = bytes(256 << 10)


async def imported(service: ImportService, *parts: bytes, name: str = "disk") -> ImageRecord:
    view = await service.import_file(GAP.join(parts) + GAP, name=name, disk_format="raw")
    return await service.image(view.record.image_id)


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


def space_of(service: ImportService) -> Space:
    return Space(service.runtime, PackCounting(service.runtime))


async def test_an_image_alone_shares_nothing(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await imported(service, noise(1), noise(2))
        found = await space_of(service).of_image(PROJECT, image.id)
        assert (found.unique_bytes, found.shared_bytes, found.is_current) == (image.stored_size, 0, True)
        assert found.freed_bytes == found.unique_bytes == 2 * MIB


async def test_what_two_images_have_is_shared_and_the_rest_goes_with_each(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, noise(1), noise(2))
        second = await imported(service, noise(2), noise(3))
        space = space_of(service)
        one, two = [await space.of_image(PROJECT, image.id) for image in (first, second)]
        assert (one.unique_bytes, one.shared_bytes) == (MIB, MIB)
        assert (two.unique_bytes, two.shared_bytes) == (MIB, MIB)
        # A pack that the second image needs a part of stays whole, until it is repacked.
        assert one.freed_bytes < MIB
        assert two.freed_bytes == MIB
        before = await space.of_project(PROJECT)
        await delete(service, first)
        two = await space.of_image(PROJECT, second.id)
        assert (two.unique_bytes, two.shared_bytes) == (2 * MIB, 0)
        after = await space.of_project(PROJECT)
        assert before.pack_bytes - after.pack_bytes == one.freed_bytes
        assert two.freed_bytes == after.pack_bytes > 2 * MIB  # with what nobody needs of shared packs
        async with service.runtime.database.reading() as c:
            packed = await pack_space.packed_space(c, STORE)
        assert (packed.pack_bytes, packed.live_bytes) == (after.pack_bytes, 2 * MIB)
        assert packed.due_packs == 0


async def test_a_chunk_that_a_disk_has_twice_counts_once(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await imported(service, noise(1), noise(1))
        found = await space_of(service).of_image(PROJECT, image.id)
        assert found.unique_bytes == MIB


async def test_a_copy_shares_all_and_deleting_one_of_the_two_frees_nothing(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await imported(service, noise(1))
        async with service.runtime.database.transaction() as c:
            other = Holder(HolderKind.IMAGE, "another")
            await chunk_index.hold_manifest(c, other, image.manifest_id)
        found = await space_of(service).of_image(PROJECT, image.id)
        assert (found.unique_bytes, found.shared_bytes, found.freed_bytes) == (0, MIB, 0)


async def test_a_deleted_image_needs_its_bytes_until_it_is_purged(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, noise(1))
        second = await imported(service, noise(1))
        deletion = ImageDeletion(service.runtime, service.sweeper)
        await deletion.delete(ImageRef(PROJECT, first.id), is_final=False)
        space = space_of(service)
        assert (await space.of_image(PROJECT, second.id)).unique_bytes == 0
        assert (await space.of_image(PROJECT, first.id)).shared_bytes == MIB
        await deletion.delete(ImageRef(PROJECT, first.id), is_final=True)
        await service.runtime.background.settle()
        await service.sweeper.free(STORE)
        assert (await space.of_image(PROJECT, second.id)).unique_bytes == MIB


async def test_figures_are_for_the_owner_of_an_image_that_has_bytes(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await imported(service, noise(1))
        space = space_of(service)
        with pytest.raises(NotFound):
            await space.of_image("elsewhere", image.id)
        async with service.runtime.database.transaction() as c:
            await c.exec_driver_sql("UPDATE image SET visibility = 'public'")
        with pytest.raises(PermissionDenied):
            await space.of_image("elsewhere", image.id)
        async with service.runtime.database.transaction() as c:
            await c.exec_driver_sql("UPDATE image SET status = 'queued'")
        with pytest.raises(FailedPrecondition):
            await space.of_image(PROJECT, image.id)


async def test_packs_that_are_known_are_not_counted_again(world: ImportWorld) -> None:
    async with world.serving() as service:
        await imported(service, noise(1))
        await imported(service, noise(2))
        counting = PackCounting(service.runtime)
        own = await counting.count_store(STORE)
        assert own >= 2
        assert await counting.count_store(STORE) == 0
        third = await imported(service, noise(2))  # lists some of them
        assert 0 < await counting.count_store(STORE) < own
        assert await counting.count_store(STORE) == 0
        await delete(service, third)
        assert 0 < await counting.count_store(STORE) < own


async def test_a_pack_of_a_damaged_manifest_counts_as_needed_whole(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, noise(1), noise(2))
        second = await imported(service, noise(2))
        await delete(service, first)
        await put(service.runtime.stores.get(STORE), locations_blob(second.manifest_id), b"no manifest")
        counting = PackCounting(service.runtime)
        assert await counting.count_store(STORE) > 0
        assert await counting.count_store(STORE) == 0
        async with service.runtime.database.reading() as c:
            packed = await pack_space.packed_space(c, STORE)
        assert packed.live_bytes == packed.pack_bytes > MIB


async def test_a_project_is_told_what_its_images_take_together(world: ImportWorld) -> None:
    async with world.serving() as service:
        await imported(service, noise(1), noise(2))
        second = await imported(service, noise(2))
        space = space_of(service)
        found = await space.of_project(PROJECT)
        assert (found.image_count, found.stored_bytes) == (2, 3 * MIB)
        assert (found.pack_bytes, found.shared_bytes) == (2 * MIB, 0)
        async with service.runtime.database.transaction() as c:
            await c.exec_driver_sql(f"UPDATE image SET project_id = 'web' WHERE id = '{second.id}'")
        mine, other = await space.of_project(PROJECT), await space.of_project("web")
        assert mine.pack_bytes == 2 * MIB
        assert MIB <= mine.shared_bytes == other.shared_bytes == other.pack_bytes
        assert (await space.of_project("nobody")).image_count == 0


async def test_a_store_that_hangs_keeps_no_other_from_its_upkeep(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor from telling what its images take."""
    monkeypatch.setattr("imsd.core.patience.TURN_SECONDS", 0.05)
    async with world.serving() as service:
        await service.import_file(noise(1) + GAP, name="hung", disk_format="raw", store=SECOND)
        image = await imported(service, noise(1))
        world.second.add(Fault(call=Call.READ, kind=FaultKind.HANG, times=None))
        runtime = service.runtime
        # The store that hangs comes first.
        stores = StorePool(runtime.stores.opened[::-1], STORE)
        scrubs = ScrubSettings(timedelta(days=1), 0)
        settings = UpkeepSettings(scrubs=scrubs, dead_percent=0)
        upkeep = StoreUpkeep(replace(runtime, stores=stores), service.dispatcher, settings)
        await asyncio.wait_for(upkeep.tick(), 20)
        assert world.second.hanging == 1
        found = await asyncio.wait_for(upkeep.space.of_image(PROJECT, image.id), 20)
        assert found.is_current
        scrubs_of = job_rows.JobQuery(project_id=PROJECT, kinds=(JobKind.SCRUB_STORE,))
        async with asyncio.timeout(20):
            jobs: list[JobRecord] = []
            while not jobs:  # a slow machine: it has its turn beside the other's
                async with runtime.database.reading() as c:
                    jobs = await job_rows.list_jobs(c, scrubs_of, 10, None)
        assert [job.spec["store"] for job in jobs] == [STORE]
        await upkeep.stop()
        assert world.second.hanging == 0
