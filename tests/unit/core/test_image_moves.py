"""Images that move into another store, whatever else happens to them meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from imsd.contract import (
    Conflict,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
)
from imsd.core.downloads import open_image_reader
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import ImageDeletion
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.core.stores.image_moves import NewMove
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, ImageStatus, JobState, MemberStatus
from imsd.testing.faulty_store import Call, Fault, FaultKind
from tests.unit.core.coarse_disks import fast_imported
from tests.unit.core.copy_world import (
    OTHER,
    a_disk,
    changed,
    content_of,
    copied,
    delete,
    imported,
    record_of,
    share,
    verified,
)
from tests.unit.core.copy_world import started as copy_started
from tests.unit.core.core_world import STORE, new_id
from tests.unit.core.encrypted_world import DISK, new_key
from tests.unit.core.import_world import MIB, PROJECT, SECOND, ImportService, ImportWorld, failed
from tests.unit.core.key_world import Clock, CountingKeys


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


@pytest.fixture
async def service(world: ImportWorld) -> AsyncIterator[ImportService]:
    async with world.serving() as service:
        yield service


async def started(service: ImportService, image_id: str, store: str = SECOND, by: str = PROJECT) -> str:
    return await service.moves.start(RequestKey(by, "", new_id()), NewMove(ImageRef(by, image_id), store))


async def moved(service: ImportService, image_id: str, store: str = SECOND) -> ImageRecord:
    view = await service.end_of(await started(service, image_id, store))
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(image_id)


async def blobs_of(service: ImportService, store: str) -> int:
    await service.runtime.background.settle()
    await service.sweeper.free(store)
    return len([blob async for blob in service.runtime.stores.get(store).list()])


async def test_a_moved_image_is_the_same_image_elsewhere(service: ImportService) -> None:
    disk = a_disk(1, 6)
    image = await imported(service, disk)
    after = await moved(service, image.id)
    assert (after.id, after.digest, after.guest, after.status) == (
        image.id,
        image.digest,
        image.guest,
        ImageStatus.ACTIVE,
    )
    assert (after.store, after.stored_size, after.new_size) == (SECOND, image.stored_size, image.stored_size)
    assert after.version > image.version
    assert await blobs_of(service, STORE) == 0
    await verified(service, after)
    assert await content_of(service, after) == disk
    back = await moved(service, image.id, STORE)
    assert (back.store, await blobs_of(service, SECOND)) == (STORE, 0)
    assert await content_of(service, back) == disk
    await delete(service, back)
    assert await service.left() == {}


async def test_a_fast_imported_image_keeps_its_records(service: ImportService) -> None:
    disk = a_disk(2, 6)
    image = await fast_imported(service.runtime, PROJECT, disk)
    after = await moved(service, image.id)
    assert (after.is_fast_imported, after.digest) == (True, image.digest)
    assert await content_of(service, after) == disk


async def test_the_report_says_what_was_copied(service: ImportService) -> None:
    image = await imported(service, a_disk(3))
    await copied(service, image.id, store=SECOND)
    view = await service.end_of(await started(service, image.id))
    assert view.record.result == {
        "store": SECOND,
        "from_store": STORE,
        "stored_bytes": image.stored_size,
        "copied_bytes": 0,
    }


async def test_copies_stay_where_they_are(service: ImportService) -> None:
    disk = a_disk(4)
    image = await imported(service, disk)
    copy = await record_of(service, await copied(service, image.id))
    assert copy.manifest_id == image.manifest_id
    await moved(service, image.id)
    assert await blobs_of(service, STORE) > 0
    still = await service.image(copy.id)
    assert (still.store, still.manifest_id) == (STORE, copy.manifest_id)
    assert await content_of(service, still) == disk
    await moved(service, copy.id)
    assert await blobs_of(service, STORE) == 0


async def test_a_reader_is_not_disturbed(service: ImportService) -> None:
    disk = a_disk(5)
    image = await imported(service, disk)
    async with open_image_reader(service.runtime, service.sweeper, image) as reader:
        await moved(service, image.id)
        assert await blobs_of(service, STORE) > 0
        content = bytearray(len(disk))
        await service.runtime.pool.run(reader.read_into, 0, memoryview(content))
        assert content == disk
    assert await blobs_of(service, STORE) == 0


async def test_who_looked_at_the_image_before_it_moved_reads_it_where_it_is(service: ImportService) -> None:
    disk = a_disk(6)
    image = await imported(service, disk)  # as a download has looked it up
    await moved(service, image.id)
    assert await blobs_of(service, STORE) == 0
    assert await content_of(service, image) == disk


async def test_a_copy_that_was_asked_for_before_the_move_stays_where_it_was_to_be(
    database: Database,
) -> None:
    """It begins when the image has moved, and brings its chunks back."""
    disk = a_disk(7)
    async with ImportWorld(database).serving(hold_at=2) as service:
        image = await imported(service, disk)
        coarse = await fast_imported(service.runtime, PROJECT, a_disk(8, 4))
        # This copy has the only slot, and does not end.
        held = await copy_started(service, coarse.id)
        await service.until(held, lambda view: service.inspector.asked == 2)
        waiting = await copy_started(service, image.id)
        await moved(service, image.id)
        await service.jobs.cancel(PROJECT, held)
        copy = await record_of(service, await service.end_of(waiting))
        assert copy.store == STORE
        assert await content_of(service, copy) == disk


# -- refused -------------------------------------------------------------------------------------------


async def refusal(service: ImportService, image_id: str, store: str = SECOND, by: str = PROJECT) -> ImsError:
    with pytest.raises(ImsError) as caught:
        await started(service, image_id, store, by)
    return caught.value


async def test_what_cannot_be_moved_is_refused(service: ImportService) -> None:
    image = await imported(service, a_disk(9, 1))
    unknown = await refusal(service, image.id, "tape")
    assert (type(unknown), unknown.reason) == (NotFound, "STORE_NOT_FOUND")
    assert (await refusal(service, image.id, "")).field == "store"
    assert isinstance(await refusal(service, "no id"), InvalidRequest)
    assert isinstance(await refusal(service, new_id()), NotFound)
    there = await refusal(service, image.id, STORE)
    assert isinstance(there, FailedPrecondition)
    assert "already" in there.message
    await changed(service, image.id, status=ImageStatus.DEACTIVATED)
    assert (await refusal(service, image.id)).reason == "IMAGE_NOT_ACTIVE"


async def test_only_its_owner_moves_an_image(service: ImportService) -> None:
    image = await imported(service, a_disk(10, 1))
    assert isinstance(await refusal(service, image.id, by=OTHER), NotFound)
    await share(service, image.id, MemberStatus.ACCEPTED)
    refused = await refusal(service, image.id, by=OTHER)
    assert (type(refused), refused.reason) == (PermissionDenied, "NOT_OWNER")


async def test_an_image_that_changed_since_it_was_read_is_not_moved(service: ImportService) -> None:
    image = await imported(service, a_disk(11, 1))
    key, stale = RequestKey(PROJECT, "", new_id()), ImageRef(PROJECT, image.id, f"{image.version - 1}")
    with pytest.raises(Conflict):
        await service.moves.start(key, NewMove(stale, SECOND))


async def test_a_request_id_moves_once(service: ImportService) -> None:
    image = await imported(service, a_disk(12, 1))
    key, new = RequestKey(PROJECT, "r", "m"), NewMove(ImageRef(PROJECT, image.id), SECOND)
    first = await service.moves.start(key, new)
    await service.end_of(first)
    assert await service.moves.start(key, new) == first


# -- interrupted ---------------------------------------------------------------------------------------


def hang(world: ImportWorld, call: Call, prefix: str = "") -> None:
    world.second.add(Fault(call=call, kind=FaultKind.HANG, prefix=prefix, times=1))


async def hanging(world: ImportWorld) -> None:
    while not world.second.hanging:
        await asyncio.sleep(0.001)


async def test_two_moves_of_an_image_do_not_run_at_once(world: ImportWorld, service: ImportService) -> None:
    image = await imported(service, a_disk(13, 1))
    hang(world, Call.COMMIT, "packs/")
    job_id = await started(service, image.id)
    await hanging(world)
    refused = await refusal(service, image.id)
    assert job_id in refused.hint
    world.second.heal()
    await service.end_of(job_id)
    assert (await service.image(image.id)).store == SECOND


@pytest.mark.parametrize("prefix", ["packs/", "manifests/"])
async def test_a_cancelled_move_leaves_the_image_where_it_is(
    world: ImportWorld, service: ImportService, prefix: str
) -> None:
    image = await imported(service, a_disk(14))
    before = await service.left()
    hang(world, Call.COMMIT, prefix)
    job_id = await started(service, image.id)
    await hanging(world)
    await service.jobs.cancel(PROJECT, job_id)
    view = await service.end_of(job_id)
    assert view.record.state is JobState.CANCELLED
    assert [blob async for blob in service.runtime.stores.get(SECOND).list()] == []
    assert await service.image(image.id) == image
    assert await service.left() == before


async def test_a_move_into_a_store_without_room_leaves_nothing(
    world: ImportWorld, service: ImportService
) -> None:
    image = await imported(service, a_disk(15))
    before = await service.left()

    def no_room() -> Exception:
        return LimitExceeded("no room", reason="CAPACITY_EXHAUSTED", hint="make room")

    world.second.add(
        Fault(call=Call.WRITE, kind=FaultKind.RAISE_BEFORE, prefix="packs/", error=no_room, times=None)
    )
    assert failed(await service.end_of(await started(service, image.id))) == "CAPACITY_EXHAUSTED"
    assert await service.image(image.id) == image
    assert await service.left() == before


async def test_a_damaged_image_is_not_moved(world: ImportWorld, service: ImportService) -> None:
    image = await imported(service, a_disk(16))
    image = await moved(service, image.id)
    world.second.add(Fault(call=Call.READ, kind=FaultKind.CORRUPT, prefix="packs/"))
    view = await service.end_of(await started(service, image.id, STORE))
    assert failed(view) == "DATA_LOSS"
    assert "guest offset" in view.record.error_message
    assert (await service.image(image.id)).store == SECOND
    assert await blobs_of(service, STORE) == 0


Meanwhile = Callable[[ImportService, ImageRecord], Awaitable[None]]


async def move_with(world: ImportWorld, service: ImportService, meanwhile: Meanwhile) -> tuple[str, JobView]:
    image = await imported(service, a_disk(17))
    hang(world, Call.COMMIT, "manifests/")
    job_id = await started(service, image.id)
    await hanging(world)
    await meanwhile(service, image)
    world.second.heal()
    return image.id, await service.end_of(job_id)


async def test_an_image_that_is_deleted_meanwhile_is_not_moved(
    world: ImportWorld, service: ImportService
) -> None:
    async def deleted(service: ImportService, image: ImageRecord) -> None:
        deletion = ImageDeletion(service.runtime, service.sweeper)
        await deletion.delete(ImageRef(PROJECT, image.id), is_final=True)

    _, view = await move_with(world, service, deleted)
    assert view.record.state is JobState.FAIL
    assert view.record.error_reason == "NOT_FOUND"
    assert await service.left() == {}


async def test_an_image_that_is_changed_meanwhile_is_moved_as_it_is_then(
    world: ImportWorld, service: ImportService
) -> None:
    async def renamed(service: ImportService, image: ImageRecord) -> None:
        await changed(service, image.id, name="renamed", status=ImageStatus.DEACTIVATED)

    image_id, view = await move_with(world, service, renamed)
    assert view.record.state is JobState.SUCCESS
    image = await service.image(image_id)
    assert (image.name, image.status, image.store) == ("renamed", ImageStatus.DEACTIVATED, SECOND)


async def test_a_move_goes_on_after_a_stop_and_copies_no_pack_twice(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await imported(service, a_disk(18))
        hang(world, Call.COMMIT, "manifests/")
        job_id = await started(service, image.id)
        await hanging(world)
    packs = len([blob async for blob in world.second.list("packs/")])
    assert packs
    world.second.heal()
    async with world.serving() as service:
        view = await service.end_of(job_id)
        assert view.record.state is JobState.SUCCESS, view
        assert view.record.result["copied_bytes"] == 0
        assert len([blob async for blob in world.second.list("packs/")]) == packs
        assert await blobs_of(service, STORE) == 0
        assert len(await content_of(service, await service.image(image.id))) == 3 * MIB


# -- encrypted -------------------------------------------------------------------------------------------


async def test_an_encrypted_image_moves_without_its_key_and_is_opened_by_it_there(database: Database) -> None:
    key_service = CountingKeys(Clock())
    async with ImportWorld(database, key_service=key_service).serving() as service:
        await new_key(service, "payroll")
        view = await service.import_file(DISK, disk_format="raw", key="payroll")
        image = await service.image(view.record.image_id)
        key_service.is_away = True
        after = await moved(service, image.id)
        key_service.is_away = False
        assert (after.store, after.key_id, after.digest) == (SECOND, image.key_id, image.digest)
        assert await blobs_of(service, STORE) == 0
        assert await content_of(service, after) == DISK
        await verified(service, after)
