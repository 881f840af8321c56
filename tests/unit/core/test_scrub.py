"""Scrubs: what they find, where they go on, whom they tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from imsd.chunks.index import content_blob, locations_blob, pack_blob
from imsd.chunks.scrub import scrub_pack
from imsd.contract import BlobId, ByteRange, FailedPrecondition, InvalidRequest, Unavailable
from imsd.core.access import Access
from imsd.core.caller import THE_DAEMON, Caller, CallerKind
from imsd.core.jobs import JobView
from imsd.core.policies.decisions import Policies
from imsd.core.policies.loading import load_policies
from imsd.core.requests import RequestKey
from imsd.core.store_upkeep.pace import Pace
from imsd.core.store_upkeep.scrub_jobs import Damage, NewScrub, ScrubJobs, ScrubSettings
from imsd.metadata import jobs as job_rows
from imsd.metadata import scrubs
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, JobState
from tests.unit.chunks.stored_disk import get, put
from tests.unit.core.copy_world import delete
from tests.unit.core.core_world import STORE, new_id, now
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld
from tests.unit.core.test_space import imported, noise

UNLIMITED = ScrubSettings(timedelta(0), 0)


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


def jobs_of(service: ImportService, settings: ScrubSettings = UNLIMITED) -> ScrubJobs:
    return ScrubJobs(service.runtime, service.dispatcher, settings)


def key() -> RequestKey:
    return RequestKey(PROJECT, "", new_id())


async def scrubbed(service: ImportService, *, is_anew: bool = False) -> JobView:
    job_id = await jobs_of(service).start(key(), NewScrub(STORE, is_anew=is_anew))
    return await service.end_of(job_id)


async def damage(service: ImportService, caller: Caller = THE_DAEMON, page_size: int = 0) -> list[Damage]:
    access = Access(service.runtime.database, Policies(load_policies(None)))
    found, token = await jobs_of(service).damage(access, caller, STORE, page_size, "")
    pages = [*found]
    while token:
        found, token = await jobs_of(service).damage(access, caller, STORE, page_size, token)
        pages += found
    return pages


async def packs(service: ImportService, image: ImageRecord) -> list[str]:
    async with service.runtime.database.reading() as c:
        rows = await c.exec_driver_sql(
            f"SELECT pack_id FROM pack_reference WHERE holder_id = '{image.manifest_id}' ORDER BY pack_id"
        )
        return [row[0] for row in rows]


async def flip(service: ImportService, blob: str, at: int = 100) -> None:
    """Alter one byte of a blob."""
    store = service.runtime.stores.get(STORE)
    content = bytearray(await get(store, blob))  # type: ignore[arg-type]
    content[at] ^= 1
    await put(store, blob, bytes(content))  # type: ignore[arg-type]


async def test_a_store_without_damage_is_read_whole(world: ImportWorld) -> None:
    async with world.serving() as service:
        await imported(service, noise(1), noise(2))
        await imported(service, noise(2), noise(3))
        view = await scrubbed(service)
        found = view.record.result
        assert view.record.state is JobState.SUCCESS
        assert (found["manifests"], found["damaged_blobs"], found["affected_images"]) == (2, 0, 0)
        assert found["read_bytes"] >= found["pack_bytes"] == 3 * MIB
        assert await damage(service) == []
        last = await jobs_of(service).last(STORE)
        assert last is not None
        assert last.last_finished_at
        assert last.last_report["chunks"] == found["chunks"] > 0


async def test_an_altered_chunk_is_told_with_exactly_the_images_that_have_it(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, noise(1), noise(2), name="first")
        await imported(service, noise(3), name="second")
        third = await imported(service, noise(1), noise(4), name="third")
        shared = min(set(await packs(service, third)) & set(await packs(service, first)))
        await flip(service, pack_blob(shared))
        view = await scrubbed(service)
        found = await damage(service)
        assert view.record.result["damaged_blobs"] == 1
        assert {each.record.blob for each in found} == {pack_blob(shared)}
        named = {image.name for each in found for image in each.images}
        assert named <= {"first", "third"}
        assert first.id in {image.id for each in found for image in each.images}
        assert view.record.result["affected_images"] == len(named)


async def test_a_good_copy_heals_what_comes_after_the_damage(world: ImportWorld) -> None:
    async with world.serving() as service:
        first = await imported(service, noise(1))
        await flip(service, pack_blob((await packs(service, first))[0]))
        await scrubbed(service)
        again = await imported(service, noise(1))
        assert not set(await packs(service, again)) & set((await packs(service, first))[:1])
        await delete(service, first)
        assert (await scrubbed(service)).record.result["damaged_blobs"] == 0
        assert await damage(service) == []


@pytest.mark.parametrize("blob_of", [content_blob, locations_blob])
async def test_a_damaged_manifest_is_told_with_its_image(world: ImportWorld, blob_of: object) -> None:
    async with world.serving() as service:
        image = await imported(service, noise(1))
        blob = blob_of(image.manifest_id)  # type: ignore[operator]
        await flip(service, blob, 8)
        await scrubbed(service)
        [found] = await damage(service)
        assert (found.record.blob, [each.id for each in found.images]) == (blob, [image.id])


async def test_a_pack_that_is_cut_short_or_gone_is_told(world: ImportWorld) -> None:
    async with world.serving() as service:
        store = service.runtime.stores.get(STORE)
        first = await imported(service, noise(1), name="first")
        second = await imported(service, noise(2), name="second")
        cut, gone = [pack_blob((await packs(service, each))[0]) for each in (first, second)]
        await put(store, cut, (await get(store, cut))[:-1])
        gone_bytes = (await store.stat(gone)).size_bytes
        await store.delete(gone)
        await scrubbed(service)
        found = await damage(service, page_size=1)
        assert {(each.record.blob, each.images[0].name) for each in found} == {
            (cut, "first"),
            (gone, "second"),
        }
        [of_cut] = [each.record for each in found if each.record.blob == cut]
        [of_gone] = [each.record for each in found if each.record.blob == gone]
        assert of_cut.chunk_count == 1
        assert of_gone.damaged_bytes == gone_bytes
        assert "missing" in of_gone.message


async def test_names_of_images_are_for_those_who_may_see_them(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await imported(service, noise(1), name="secret")
        await flip(service, pack_blob((await packs(service, image))[0]))
        await scrubbed(service)
        stranger = Caller(kind=CallerKind.API_TOKEN, id="eve")
        [found] = await damage(service, stranger)
        assert (found.images, found.hidden_images) == ([], 1)


async def test_a_second_scrub_of_a_store_is_refused_while_one_runs(world: ImportWorld) -> None:
    async with world.serving() as service:
        await imported(service, noise(1))
        slow = ScrubSettings(timedelta(0), 1)
        job_id = await jobs_of(service, slow).start(key(), NewScrub(STORE))
        with pytest.raises(FailedPrecondition) as refused:
            await jobs_of(service).start(key(), NewScrub(STORE))
        assert (refused.value.reason, job_id in refused.value.hint) == ("SCRUB_RUNNING", True)
        await service.jobs.cancel(PROJECT, job_id)
        assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
        assert (await scrubbed(service)).record.state is JobState.SUCCESS


async def test_what_cannot_be_scrubbed_is_refused(world: ImportWorld) -> None:
    async with world.serving() as service:
        with pytest.raises(Unavailable):
            await jobs_of(service).start(key(), NewScrub("elsewhere"))
        with pytest.raises(InvalidRequest):
            await jobs_of(service).start(key(), NewScrub(STORE, bytes_per_second=-1))


class Stop(Exception):
    """The process ends here."""


async def test_a_scrub_goes_on_where_it_was_after_a_restart_and_after_a_cancellation(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every blob is read once, whichever run or job reads it."""
    read: list[str] = []
    hold = asyncio.Event()
    limit = [2]

    import imsd.core.workflows.scrub_store as workflow

    async def noted(store: object, pack_id: str, *args: object) -> object:
        if len(read) == limit[0]:
            hold.set()
            await asyncio.Event().wait()
        read.append(pack_id)
        return await scrub_pack(store, pack_id, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(workflow, "scrub_pack", noted)
    async with world.serving() as service:
        for seed in range(6):
            await imported(service, noise(seed), name=f"image-{seed}")
        job_id = await jobs_of(service).start(key(), NewScrub(STORE))
        await hold.wait()
    hold.clear()
    limit[0] = 4
    async with world.serving() as service:  # the job goes on
        await hold.wait()
        assert (await service.jobs.get(PROJECT, job_id)).record.attempt == 2
        await service.jobs.cancel(PROJECT, job_id)
        assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
        limit[0] = 1000
        view = await scrubbed(service)
        assert len(read) == len(set(read)) == view.record.result["packs"]
        assert view.record.result["manifests"] == 6
        await scrubbed(service)  # the next one begins from the start
        assert len(read) == 2 * len(set(read))


async def test_what_was_found_is_told_before_the_scrub_ends(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imsd.core.workflows.scrub_store as workflow

    hold, last_pack = asyncio.Event(), [""]

    async def all_but_the_last(store: object, pack_id: str, *args: object) -> object:
        if pack_id == last_pack[0]:
            hold.set()
            await asyncio.Event().wait()
        return await scrub_pack(store, pack_id, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(workflow, "scrub_pack", all_but_the_last)
    async with world.serving() as service:
        image = await imported(service, noise(1), name="first")
        await imported(service, noise(2), name="second")
        await flip(service, pack_blob((await packs(service, image))[0]))
        async with service.runtime.database.reading() as c:
            last_pack[0] = (await scrubs.packs_after(c, STORE, None, 100))[-1][0]
        job_id = await jobs_of(service).start(key(), NewScrub(STORE))
        await hold.wait()
        running = await jobs_of(service).last(STORE)
        assert running is not None
        assert not running.finished_at
        assert (running.report["damaged_blobs"], running.report["affected_images"]) == (1, 1)
        await service.jobs.cancel(PROJECT, job_id)
        await service.end_of(job_id)
        last_pack[0] = ""
        await flip(service, pack_blob((await packs(service, image))[0]))  # it is mended
        await scrubbed(service, is_anew=True)
        whole = await jobs_of(service).last(STORE)
        assert whole is not None
        assert (whole.report["damaged_blobs"], whole.report["affected_images"]) == (0, 0)


async def test_from_the_start_if_that_is_asked_for(world: ImportWorld) -> None:
    async with world.serving() as service:
        await imported(service, noise(1))
        slow = ScrubSettings(timedelta(0), 100_000)
        job_id = await jobs_of(service, slow).start(key(), NewScrub(STORE))
        await service.until(job_id, lambda view: view.record.phase == "scrub")
        async with asyncio.timeout(10):
            while not (last := await jobs_of(service).last(STORE)) or not last.position:
                await asyncio.sleep(0.01)
        await service.jobs.cancel(PROJECT, job_id)
        await service.end_of(job_id)
        view = await scrubbed(service, is_anew=True)
        assert view.record.result["manifests"] == 1


async def test_scrubs_are_started_when_they_are_due(world: ImportWorld) -> None:
    async with world.serving() as service:
        await imported(service, noise(1))
        await jobs_of(service).start_if_due(STORE)
        assert await jobs_of(service).last(STORE) is None  # not unless it is configured
        weekly = jobs_of(service, ScrubSettings(timedelta(days=7), 0))
        await weekly.start_if_due(STORE)
        await weekly.start_if_due(STORE)  # one at a time
        async with asyncio.timeout(10):
            while not (last := await weekly.last(STORE)) or not last.finished_at:
                await asyncio.sleep(0.01)
        await weekly.start_if_due(STORE)
        again = await weekly.last(STORE)
        assert again is not None
        assert again.job_id == last.job_id


async def test_a_scrub_that_was_broken_off_does_not_go_on_at_once(world: ImportWorld) -> None:
    """Who cancels one, because it is in the way, has some hours of peace; one that fails is not tried
    again in every round."""
    async with world.serving() as service:
        await imported(service, noise(1))
        slow = ScrubSettings(timedelta(0), 1)
        job_id = await jobs_of(service, slow).start(key(), NewScrub(STORE))
        await service.until(job_id, lambda view: view.record.phase == "scrub")
        await service.jobs.cancel(PROJECT, job_id)
        await service.end_of(job_id)
        async with service.runtime.database.transaction() as c:
            await scrubs.save_scrub(c, STORE, started_at=now() - timedelta(days=8))
        weekly = ScrubSettings(timedelta(days=7), 1)
        await jobs_of(service, weekly).start_if_due(STORE)
        async with service.runtime.database.reading() as c:
            assert await job_rows.unfinished_jobs(c) == []
        later = replace(service.runtime, clock=lambda: now() + timedelta(hours=7))
        await ScrubJobs(later, service.dispatcher, weekly).start_if_due(STORE)
        async with service.runtime.database.reading() as c:
            [going_on] = await job_rows.unfinished_jobs(c)
        await service.jobs.cancel(PROJECT, going_on.id)
        await service.end_of(going_on.id)


async def test_every_byte_that_is_read_is_read_at_the_rate(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests too, which are read again with the packs that they list."""
    spent, read = [0], [0]

    class Noted(Pace):
        async def spend(self, size_bytes: int) -> None:
            spent[0] += size_bytes

    monkeypatch.setattr("imsd.core.workflows.scrub_store.Pace", Noted)
    async with world.serving() as service:
        first = await imported(service, noise(1), noise(2))
        await imported(service, noise(2), noise(3))
        await flip(service, pack_blob((await packs(service, first))[0]))
        store = service.runtime.stores.get(STORE)
        read_of_store = store.read

        async def noted(blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
            found = await read_of_store(blob, ranges)
            read[0] += sum(map(len, found))
            return found

        monkeypatch.setattr(store, "read", noted)
        assert (await scrubbed(service)).record.result["damaged_blobs"] == 1
        assert spent[0] >= read[0] > 3 * MIB


async def test_the_rate_holds_over_any_time() -> None:
    now, waited = [0.0], []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    pace = Pace(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(11):
        await pace.spend(500)
    assert now[0] == pytest.approx(5.0)
    now[0] += 100  # what was not used then is not caught up with
    for _ in range(11):
        await pace.spend(500)
    assert now[0] == pytest.approx(105 + 5.0, abs=0.3)
    free = Pace(0, clock=lambda: now[0], sleep=sleep)
    before = len(waited)
    await free.spend(1 << 40)
    assert len(waited) == before
