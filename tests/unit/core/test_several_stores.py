"""Images in the store that was asked for, and nowhere else."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from imsd.contract import FailedPrecondition, LimitExceeded, NotFound, Unavailable
from imsd.core.new_image import NewImage
from imsd.core.opened_stores import DriverState, OpenedStore
from imsd.core.requests import RequestKey
from imsd.core.sources import Source, SourceKind
from imsd.core.store_pool import StorePool
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, JobState, MemberStatus
from imsd.metadata.tables import chunk, manifest, pack
from imsd.testing.faulty_store import Call, Fault, FaultKind
from tests.unit.core.coarse_disks import fast_imported
from tests.unit.core.copy_world import (
    OTHER,
    a_disk,
    content_of,
    copied,
    delete,
    imported,
    record_of,
    share,
    verified,
)
from tests.unit.core.core_world import STORE, new_id
from tests.unit.core.import_world import PROJECT, SECOND, ImportService, ImportWorld, failed


@pytest.fixture
async def service(database: Database, tmp_path: Path) -> AsyncIterator[ImportService]:
    async with ImportWorld(database, (tmp_path,)).serving() as service:
        yield service


async def imported_into(service: ImportService, store: str, disk: bytes) -> ImageRecord:
    view = await service.import_file(disk, disk_format="raw", store=store)
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def blobs_of(service: ImportService, store: str) -> int:
    return len([blob async for blob in service.runtime.stores.get(store).list()])


async def stores_of_rows(service: ImportService) -> set[str]:
    async with service.runtime.database.reading() as c:
        found = [(await c.execute(select(table.c.store))).scalars() for table in (pack, manifest, chunk)]
        return {store for stores in found for store in stores}


async def test_an_upload_and_its_image_lie_in_the_store_that_was_asked_for(service: ImportService) -> None:
    disk = a_disk(1)
    image = await imported_into(service, SECOND, disk)
    assert image.store == SECOND
    assert await stores_of_rows(service) == {SECOND}
    assert await blobs_of(service, STORE) == 0
    assert await content_of(service, image) == disk


async def test_a_disk_that_is_staged_lies_there_too(service: ImportService) -> None:
    disk = a_disk(2)
    view = await service.import_file(gzip.compress(disk), store=SECOND)
    assert view.record.state is JobState.SUCCESS, view
    image = await service.image(view.record.image_id)
    assert (image.store, await stores_of_rows(service)) == (SECOND, {SECOND})


async def test_a_fetched_file_goes_to_the_store_that_was_asked_for(
    service: ImportService, tmp_path: Path
) -> None:
    (tmp_path / "disk.raw").write_bytes(a_disk(3))
    source = Source(SourceKind.LOCAL_PATH, str(tmp_path / "disk.raw"))
    view = await service.end_of(await service.start(source=source, disk_format="raw", store=SECOND))
    assert view.record.state is JobState.SUCCESS, view
    assert (await service.image(view.record.image_id)).store == SECOND
    assert await blobs_of(service, STORE) == 0


async def test_the_same_disk_in_two_stores_shares_nothing(service: ImportService) -> None:
    disk = a_disk(4)
    first = await imported(service, disk)
    second = await imported_into(service, SECOND, disk)
    assert (first.store, second.store, second.digest) == (STORE, SECOND, first.digest)
    assert second.new_size == first.new_size
    again = await imported_into(service, SECOND, disk)
    assert again.new_size == 0
    await delete(service, first)
    assert await blobs_of(service, STORE) == 0
    await verified(service, second)


async def test_an_unknown_store_is_refused_with_those_there_are(service: ImportService) -> None:
    with pytest.raises(NotFound, match="no store 'tape'") as caught:
        await service.send(b"x", store="tape")
    assert (caught.value.reason, caught.value.field) == ("STORE_NOT_FOUND", "store")
    assert f"{STORE}, {SECOND}" in caught.value.hint


def test_a_store_that_is_not_ready_is_refused_with_those_that_are(service: ImportService) -> None:
    opened = service.runtime.stores.opened
    away = OpenedStore(opened[1].configured, DriverState.FAILED, "out of reach", None)
    pool = StorePool([opened[0], away], STORE)
    with pytest.raises(Unavailable, match="'second' is failed: out of reach") as caught:
        pool.choose(SECOND)
    assert caught.value.reason == "DRIVER_NOT_READY"
    assert caught.value.hint.endswith(f"ready: {STORE}")
    assert pool.choose("") == STORE


async def test_an_image_cannot_be_asked_for_in_another_store_than_its_upload(service: ImportService) -> None:
    upload_id = await service.send(a_disk(5), store=SECOND)
    with pytest.raises(FailedPrecondition, match="lies in the store 'second'") as caught:
        await service.start(upload_id=upload_id, store=STORE)
    assert caught.value.field == "store"
    with pytest.raises(NotFound):
        await service.images.check_new(PROJECT, NewImage(name="x", upload_id=upload_id, store="tape"))
    view = await service.end_of(await service.start(upload_id=upload_id, store=SECOND))
    assert view.record.state is JobState.SUCCESS, view


async def test_a_request_is_only_taken_for_a_store_that_there_is(
    service: ImportService, tmp_path: Path
) -> None:
    (tmp_path / "disk.raw").write_bytes(a_disk(3))
    source = Source(SourceKind.LOCAL_PATH, str(tmp_path / "disk.raw"))
    new = NewImage(name="disk", source=source, store="tape")
    with pytest.raises(NotFound, match="tape"):
        await service.images.check_new(PROJECT, new)
    with pytest.raises(NotFound, match="tape"):
        await service.images.create(RequestKey(PROJECT, "", new_id()), new)


# -- copies --------------------------------------------------------------------------------------------


async def test_a_copy_in_another_store_needs_nothing_of_the_first(service: ImportService) -> None:
    disk = a_disk(6)
    image = await imported(service, disk)
    copy = await record_of(service, await copied(service, image.id, store=SECOND))
    assert (copy.store, copy.digest, copy.new_size) == (SECOND, image.digest, image.stored_size)
    assert (copy.guest, copy.stored_size) == (image.guest, image.stored_size)
    await delete(service, image)
    assert await blobs_of(service, STORE) == 0
    await verified(service, copy)
    assert await content_of(service, copy) == disk
    await delete(service, copy)
    assert await service.left() == {}


async def test_a_second_copy_there_costs_nothing(service: ImportService) -> None:
    image = await imported(service, a_disk(7))
    await copied(service, image.id, store=SECOND)
    again = await record_of(service, await copied(service, image.id, store=SECOND))
    assert again.new_size == 0


async def test_a_copy_of_another_project_is_of_its_own_chunks(service: ImportService) -> None:
    image = await imported(service, a_disk(8))
    await share(service, image.id, MemberStatus.ACCEPTED)
    copy = await record_of(service, await copied(service, image.id, OTHER, store=SECOND))
    async with service.runtime.database.reading() as c:
        rows = await c.execute(select(chunk.c.store, chunk.c.domain).distinct())
        assert {tuple(row) for row in rows} == {(STORE, PROJECT), (SECOND, OTHER)}
    await verified(service, copy)


async def test_a_fast_imported_image_is_cut_anew_there(service: ImportService) -> None:
    disk = a_disk(9, 6)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    copy = await record_of(service, await copied(service, coarse.id, store=SECOND))
    assert (copy.store, copy.is_fast_imported, copy.digest) == (SECOND, False, coarse.digest)
    assert await content_of(service, copy) == disk


async def test_a_copy_to_a_store_that_has_no_room_leaves_nothing(database: Database) -> None:
    world = ImportWorld(database)

    def no_room() -> Exception:
        return LimitExceeded("no room", reason="CAPACITY_EXHAUSTED", hint="make room")

    async with world.serving() as service:
        image = await imported(service, a_disk(10))
        before = await service.left()
        world.second.add(
            Fault(call=Call.WRITE, kind=FaultKind.RAISE_BEFORE, prefix="packs/", error=no_room, times=None)
        )
        view = await copied(service, image.id, store=SECOND)
        assert failed(view) == "CAPACITY_EXHAUSTED"
        assert await service.left() == before


async def test_a_copy_without_a_store_stays_where_the_image_is(service: ImportService) -> None:
    image = await imported_into(service, SECOND, a_disk(11, 1))
    copy = await record_of(service, await copied(service, image.id))
    assert (copy.store, copy.manifest_id) == (SECOND, image.manifest_id)
