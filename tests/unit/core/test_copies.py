"""Copies of images: what they cost, whose bytes they are, which rules hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from typing import Any, cast

import pytest
from sqlalchemy import func, select

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.contract import FailedPrecondition, InvalidRequest, LimitExceeded, NotFound
from imsd.core.downloads import open_image_reader
from imsd.core.image_changes import ImageRef
from imsd.core.image_copies import COPIED, NewCopy, queued_copy
from imsd.core.image_deletion import ImageDeletion
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.metadata import images as image_rows
from imsd.metadata import members as member_rows
from imsd.metadata.database import Database
from imsd.metadata.members import MemberChange
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    JobState,
    MemberStatus,
    OriginKind,
    Visibility,
)
from imsd.metadata.tables import chunk
from tests.unit.core.coarse_disks import RECORD_BYTES, fast_imported
from tests.unit.core.core_world import STORE, new_id, now
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.metadata.samples import an_image

OTHER = "other"


@pytest.fixture
async def service(database: Database) -> AsyncIterator[ImportService]:
    async with ImportWorld(database).serving() as service:
        yield service


def a_disk(seed: int, mebibytes: int = 3) -> bytes:
    return random.Random(seed).randbytes(mebibytes * MIB)


async def imported(service: ImportService, disk: bytes) -> ImageRecord:
    view = await service.import_file(disk, disk_format="raw")
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def copied(service: ImportService, image_id: str, by: str = PROJECT, **values: Any) -> JobView:
    return await service.end_of(await started(service, image_id, by, **values), by)


async def started(service: ImportService, image_id: str, by: str = PROJECT, **values: Any) -> str:
    new = NewCopy(**({"image_id": image_id, "name": "copy"} | values))
    return await service.copies.start(RequestKey(by, "", new_id()), new)


async def record_of(service: ImportService, view: JobView) -> ImageRecord:
    assert view.record.state is JobState.SUCCESS, view
    async with service.runtime.database.reading() as c:
        found = await image_rows.get_image(c, view.record.project_id, view.record.image_id)
    assert found is not None
    return found


async def share(service: ImportService, image_id: str, status: MemberStatus | None, by: str = OTHER) -> None:
    """Make the share of an image what the test needs, whatever it was."""
    async with service.runtime.database.transaction() as c:
        old = await member_rows.member_of(c, image_id, by)
        if old is not None:
            await member_rows.change_members(c, [MemberChange(image_id, by, old.status, None)], now())
        if status is not None:
            await member_rows.change_members(c, [MemberChange(image_id, by, None, status)], now())


async def content_of(service: ImportService, record: ImageRecord) -> bytes:
    runtime, content = service.runtime, b""
    async with open_image_reader(runtime, service.sweeper, record) as reader:
        for start in range(0, reader.size_bytes, MIB):
            piece = bytearray(min(MIB, reader.size_bytes - start))
            await runtime.pool.run(reader.read_into, start, memoryview(piece))
            content += piece
    return content


async def verified(service: ImportService, record: ImageRecord) -> None:
    job_id = await service.images.verify(RequestKey(record.project_id, "", new_id()), record)
    view = await service.end_of(job_id, record.project_id)
    assert view.record.result["damage_count"] == 0, view
    assert view.record.result["digest"] == record.digest


async def delete(service: ImportService, record: ImageRecord) -> None:
    deletion = ImageDeletion(service.runtime, service.sweeper)
    await deletion.delete(ImageRef(record.project_id, record.id), is_final=True)
    await service.runtime.background.settle()
    await service.sweeper.free(STORE)


async def test_a_copy_costs_rows_only(service: ImportService) -> None:
    disk = a_disk(1)
    source = await imported(service, disk)
    before = await service.left()
    copy = await record_of(service, await copied(service, source.id))
    after = await service.left()
    assert after == before | {"image": 2, "manifest_holder": 2}
    assert (copy.digest, copy.virtual_size, copy.new_size) == (source.digest, len(disk), 0)
    assert (copy.data_size, copy.stored_size) == (source.data_size, source.stored_size)
    assert copy.status is ImageStatus.ACTIVE
    assert copy.active_at is not None
    assert await content_of(service, copy) == disk


@pytest.mark.parametrize("first", ["source", "copy"])
async def test_a_copy_and_its_source_do_without_each_other(service: ImportService, first: str) -> None:
    disk = a_disk(2)
    source = await imported(service, disk)
    copy = await record_of(service, await copied(service, source.id))
    gone, stays = (source, copy) if first == "source" else (copy, source)
    await delete(service, gone)
    await verified(service, stays)
    assert await content_of(service, stays) == disk
    await delete(service, stays)
    assert await service.left() == {}


async def test_a_copy_of_a_shared_image_keeps_its_bytes_when_the_owner_deletes(
    service: ImportService,
) -> None:
    disk = a_disk(3)
    source = await imported(service, disk)
    await share(service, source.id, MemberStatus.ACCEPTED)
    copy = await record_of(service, await copied(service, source.id, OTHER))
    assert (copy.project_id, copy.origin_image_id) == (OTHER, source.id)
    await delete(service, source)
    await verified(service, copy)
    assert await content_of(service, copy) == disk


async def test_a_copy_makes_no_chunk_findable_for_another_project(service: ImportService) -> None:
    """A deduplication hit would tell a project what another one stores."""
    disk = a_disk(4)
    source = await imported(service, disk)
    await share(service, source.id, MemberStatus.ACCEPTED)
    await copied(service, source.id, OTHER)
    async with service.runtime.database.reading() as c:
        domains = (await c.execute(select(chunk.c.domain).distinct())).scalars().all()
    assert domains == [PROJECT]


async def test_a_fast_imported_image_is_cut_anew_and_shares_chunks(service: ImportService) -> None:
    disk = a_disk(5, 6)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    fine = await imported(service, disk)
    assert fine.new_size == fine.stored_size > 0  # it shares nothing with records
    copy = await record_of(service, await copied(service, coarse.id))
    assert not copy.is_fast_imported
    assert (copy.digest, copy.new_size) == (coarse.digest, 0)
    assert copy.manifest_id not in (coarse.manifest_id, fine.manifest_id)
    assert service.inspector.asked == 2  # as at the import
    for gone in (coarse, fine):
        await delete(service, gone)
    await verified(service, copy)
    assert await content_of(service, copy) == disk
    await delete(service, copy)
    left = await service.left()
    assert left == {}


async def test_a_fast_imported_image_of_another_project_is_cut_into_the_domain_of_the_copy(
    service: ImportService,
) -> None:
    disk = a_disk(6, 4)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    await share(service, coarse.id, MemberStatus.ACCEPTED)
    copy = await record_of(service, await copied(service, coarse.id, OTHER))
    assert copy.new_size == copy.stored_size
    again = await record_of(service, await copied(service, coarse.id, OTHER))
    assert again.new_size == 0
    async with service.runtime.database.reading() as c:
        rows = await c.execute(select(chunk.c.domain, func.min(chunk.c.length)).group_by(chunk.c.domain))
        shortest = {row[0]: row[1] for row in rows}
    assert shortest[OTHER] < shortest[PROJECT] == RECORD_BYTES


async def test_metadata_is_copied_and_what_belongs_to_the_owner_is_not(service: ImportService) -> None:
    given: dict[str, Any] = {
        "os_version": "Ubuntu 22.04 server 64bit",
        "os_type": "linux",
        "os_bits": 64,
        "platform": "Ubuntu",
        "architecture": "arm",
        "boot_mode": "uefi",
        "kind": ImageKind.DATA_DISK,
        "min_disk_gb": 40,
        "min_ram_mb": 512,
        "max_ram_mb": 4096,
        "server_support": {"has_kvm": True},
        "properties": {"disk-bus": "virtio"},
        "shutdown_timeout_seconds": 90,
        "has_nic_multiqueue": True,
        "is_protected": True,
        "tags": {"team": "core"},
        "family": "ubuntu",
        "deprecated_at": now(),
        "enterprise_project_id": new_id(),
        "description": "ours",
        "origin": "https://internal.example/disk",
    }
    source = an_image(store=STORE, visibility=Visibility.SHARED, **given)
    new = NewCopy(image_id=source.id, name="copy", description="mine", tags={"stage": "test"})
    copy = queued_copy(service.runtime, OTHER, new, source)
    for name in ("properties", "server_support", "kind", "os_version", "boot_mode", "min_disk_gb"):
        assert getattr(copy, name) == given[name]
    assert (copy.name, copy.description, copy.tags) == ("copy", "mine", {"stage": "test"})
    assert (copy.origin_kind, copy.origin) == (OriginKind.IMAGE, source.id)
    assert (copy.project_id, copy.visibility, copy.status) == (OTHER, Visibility.PRIVATE, ImageStatus.QUEUED)
    plain = replace(an_image(), name="")
    for field in fields(ImageRecord):
        if field.name in ("is_protected", "family", "deprecated_at", "is_published", "replacement_image_id"):
            assert getattr(copy, field.name) == getattr(plain, field.name)
    assert "origin" not in COPIED


@pytest.mark.parametrize(
    ("given", "public_platform", "is_market_derived"),
    [
        ({"visibility": Visibility.PUBLIC, "platform": "Ubuntu"}, "Ubuntu", False),
        ({"visibility": Visibility.PUBLIC}, "Other", False),
        ({"public_platform": "Ubuntu"}, "Ubuntu", False),
        ({"platform": "Ubuntu"}, "", False),
        ({"is_published": True}, "", True),
        ({"is_market_derived": True}, "", True),
    ],
)
async def test_what_an_image_descends_from_is_inherited(
    service: ImportService, given: dict[str, Any], public_platform: str, is_market_derived: bool
) -> None:
    """Table 5-5: what was created from an Ubuntu public image cannot be exported, nor can its copies."""
    source = an_image(store=STORE, **given)
    copy = queued_copy(service.runtime, OTHER, NewCopy(image_id=source.id, name="copy"), source)
    again = queued_copy(service.runtime, OTHER, NewCopy(image_id=copy.id, name="again"), copy)
    for each in (copy, again):
        assert (each.public_platform, each.is_market_derived) == (public_platform, is_market_derived)
        assert not each.is_published


async def put(service: ImportService, **values: Any) -> ImageRecord:
    record = an_image(**({"project_id": PROJECT, "store": STORE, "virtual_size": MIB} | values))
    async with service.runtime.database.transaction() as c:
        await image_rows.insert_image(c, record)
    return record


@pytest.mark.parametrize(
    ("values", "error", "reason"),
    [
        ({"kind": ImageKind.ISO, "disk_format": "iso"}, FailedPrecondition, "IMAGE_KIND_UNSUITED"),
        ({"virtual_size": (128 << 30) + 1}, LimitExceeded, "COPY_TOO_LARGE"),
        ({"status": ImageStatus.QUEUED}, FailedPrecondition, "FAILED_PRECONDITION"),
        ({"status": ImageStatus.SAVING}, FailedPrecondition, "FAILED_PRECONDITION"),
        ({"status": ImageStatus.DEACTIVATED}, FailedPrecondition, "FAILED_PRECONDITION"),
        ({"status": ImageStatus.PENDING_DELETE}, NotFound, "NOT_FOUND"),
    ],
)
async def test_rows_of_table_5_4_on_replicating_an_image(
    service: ImportService, values: dict[str, Any], error: type[Exception], reason: str
) -> None:
    """Maximum size of an image: 128 GB; Private image status: Normal; no replication of ISO images."""
    record = await put(service, **values)
    with pytest.raises(error) as refused:
        await started(service, record.id)
    assert getattr(refused.value, "reason", "") == reason


async def test_an_image_of_exactly_128_gb_is_copied(service: ImportService) -> None:
    record = await put(service, virtual_size=128 << 30, manifest_id="0" * 32)
    view = await copied(service, record.id)
    assert view.record.error_message == "there is no manifest " + "0" * 32  # and nothing about its size


@pytest.mark.parametrize("status", [MemberStatus.PENDING, MemberStatus.REJECTED])
async def test_a_share_that_is_not_accepted_is_not_copied(
    service: ImportService, status: MemberStatus
) -> None:
    """Contract §9.1, shared to me, not accepted: IMG.0196."""
    record = await put(service)
    await share(service, record.id, status)
    with pytest.raises(FailedPrecondition) as refused:
        await started(service, record.id, OTHER)
    assert refused.value.reason == "SHARE_NOT_ACCEPTED"
    with pytest.raises(NotFound):
        await started(service, record.id, "stranger")


async def test_a_public_image_is_copied_by_anybody(service: ImportService) -> None:
    source = await imported(service, a_disk(7, 1))
    async with service.runtime.database.transaction() as c:
        values = {"visibility": Visibility.PUBLIC, "platform": "Ubuntu"}
        await image_rows.update_image(c, source.id, values, statuses=[ImageStatus.ACTIVE])
    copy = await record_of(service, await copied(service, source.id, "stranger"))
    assert (copy.visibility, copy.public_platform) == (Visibility.PRIVATE, "Ubuntu")


async def test_copies_count_against_the_quota_of_who_copies(database: Database) -> None:
    async with ImportWorld(database).serving(quotas={"images": 2}) as service:
        source = await imported(service, a_disk(8, 1))
        await copied(service, source.id)
        with pytest.raises(LimitExceeded) as refused:
            await started(service, source.id)
        assert refused.value.reason == "QUOTA_EXCEEDED"


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": " x"},
        {"name": "x" * 129},
        {"image_id": ""},
        {"image_id": "x"},
        {"description": "<"},
        {"tags": {"a b": ""}},
        {"tags": {f"k{n}": "" for n in range(11)}},
        {"enterprise_project_id": "x"},
    ],
)
async def test_bad_requests_are_refused(service: ImportService, values: dict[str, Any]) -> None:
    source = await put(service)
    with pytest.raises(InvalidRequest):
        await started(service, values.pop("image_id", source.id), **values)
    assert await service.left() == {"image": 1}


async def test_a_request_that_is_repeated_makes_one_copy(service: ImportService) -> None:
    source = await imported(service, a_disk(9, 1))
    asked = RequestKey(PROJECT, "once", new_id())
    job_id = await service.copies.start(asked, NewCopy(image_id=source.id, name="copy"))
    await service.end_of(job_id)
    await delete(service, source)
    assert await service.copies.start(asked, NewCopy(image_id=source.id, name="copy")) == job_id


async def test_a_share_that_is_withdrawn_before_the_copy_begins_ends_it(
    database: Database,
) -> None:
    world = ImportWorld(database)
    async with world.serving() as service:
        source = await imported(service, a_disk(10, 1))
        await share(service, source.id, MemberStatus.ACCEPTED)
        before = await service.left()
        service.dispatcher._stopping.set()  # nothing begins any more
        job_id = await started(service, source.id, OTHER)
        await share(service, source.id, None)
    async with world.serving() as service:
        assert failed(await service.end_of(job_id, OTHER)) == "NOT_FOUND"
        left = await service.left()
        assert {name: left.get(name) for name in before} == before


async def test_a_copy_that_runs_keeps_its_bytes_when_it_is_withdrawn(database: Database) -> None:
    async with ImportWorld(database).serving() as service:
        disk = a_disk(11, 4)
        coarse = await fast_imported(service.runtime, PROJECT, disk)
        await share(service, coarse.id, MemberStatus.ACCEPTED)
        job_id, reached = await held_in_copy(service, coarse)
        await share(service, coarse.id, None)
        await delete(service, coarse)
        reached.set()
        copy = await record_of(service, await service.end_of(job_id, OTHER))
        assert await content_of(service, copy) == disk


async def changed(service: ImportService, image_id: str, **values: Any) -> None:
    async with service.runtime.database.transaction() as c:
        done = await image_rows.update_image(c, image_id, values, statuses=[ImageStatus.ACTIVE])
    assert done is not None


MARKED: dict[str, Any] = {"is_published": True, "visibility": Visibility.PUBLIC, "platform": "Ubuntu"}
UNMARKED: dict[str, Any] = {"is_published": False, "visibility": Visibility.PRIVATE}


async def test_a_source_that_is_published_before_the_copy_begins_marks_it(database: Database) -> None:
    """Table 5-5 holds for what is copied, not for what was asked for; and no mark is lost."""
    world = ImportWorld(database)
    async with world.serving() as service:
        late, early = [await imported(service, a_disk(seed, 1)) for seed in (14, 15)]
        service.dispatcher._stopping.set()  # nothing begins any more
        await changed(service, early.id, **MARKED)
        job_ids = [await started(service, source.id) for source in (late, early)]
        await changed(service, early.id, **UNMARKED)
        await changed(service, late.id, **MARKED)
    async with world.serving() as service:
        for job_id in job_ids:
            copy = await record_of(service, await service.end_of(job_id))
            assert (copy.public_platform, copy.is_market_derived) == ("Ubuntu", True)
            assert not copy.is_published


async def test_a_source_that_is_published_while_it_is_copied_marks_the_copy(database: Database) -> None:
    async with ImportWorld(database).serving() as service:
        coarse = await fast_imported(service.runtime, PROJECT, a_disk(16, 4))
        await share(service, coarse.id, MemberStatus.ACCEPTED)
        job_id, reached = await held_in_copy(service, coarse)
        await changed(service, coarse.id, **MARKED)
        await share(service, coarse.id, None)
        reached.set()
        copy = await record_of(service, await service.end_of(job_id, OTHER))
        assert (copy.public_platform, copy.is_market_derived) == ("Ubuntu", True)


async def held_in_copy(service: ImportService, coarse: ImageRecord) -> tuple[str, asyncio.Event]:
    """A copy that has opened what it reads, and reads on when the event is set."""
    may_read, begun = asyncio.Event(), asyncio.Event()
    store = service.runtime.stores.get(STORE)
    read = store.read

    async def slowly(*arguments: Any) -> Any:
        begun.set()
        await may_read.wait()
        return await read(*arguments)

    cast(Any, store).read = slowly
    job_id = await started(service, coarse.id, OTHER)
    await begun.wait()
    return job_id, may_read


@pytest.mark.parametrize("is_fast", [False, True])
async def test_a_copy_that_is_cancelled_leaves_nothing(database: Database, is_fast: bool) -> None:
    async with ImportWorld(database).serving(hold_at=2) as service:
        disk = a_disk(12, 4)
        source = await imported(service, disk)
        if is_fast:
            source = await fast_imported(service.runtime, PROJECT, disk[: 2 * MIB])
        before = await service.left()
        if not is_fast:
            cast(Any, service.dispatcher._slots).take = never
        job_id = await started(service, source.id)
        if is_fast:
            await service.until(job_id, lambda view: view.record.phase == "guest")
        await service.jobs.cancel(PROJECT, job_id)
        assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
        assert await service.left() == before


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


async def test_a_copy_goes_on_after_a_crash(database: Database) -> None:
    world, disk = ImportWorld(database), a_disk(13, 4)
    async with world.serving(hold_at=1) as service:
        coarse = await fast_imported(service.runtime, PROJECT, disk)
        job_id = await started(service, coarse.id)
        await service.until(job_id, lambda view: view.record.phase == "guest")
    async with world.serving() as service:
        view = await service.end_of(job_id)
        copy = await record_of(service, view)
        assert view.record.attempt == 2
        await verified(service, copy)
        await delete(service, coarse)
        await delete(service, copy)
        assert await service.left() == {}


async def test_a_disk_that_reads_otherwise_than_it_was_is_not_copied(service: ImportService) -> None:
    disk = a_disk(14, 2)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    async with service.runtime.database.transaction() as c:
        values = {"digest": "b3t:" + "0" * 64}
        await image_rows.update_image(c, coarse.id, values, statuses=[ImageStatus.ACTIVE])
    before = await service.left()
    assert failed(await copied(service, coarse.id)) == "DATA_LOSS"
    assert await service.left() == before


async def test_many_copies_at_once_of_one_image_are_all_whole(service: ImportService) -> None:
    disk = a_disk(15, 1)
    source = await imported(service, disk)
    jobs = await asyncio.gather(*(started(service, source.id, name=f"copy-{n}") for n in range(12)))
    copies = [await record_of(service, await service.end_of(job_id)) for job_id in jobs]
    await delete(service, source)
    for copy in copies:
        async with open_chunk_reader(
            service.runtime.stores.get(STORE), copy.manifest_id, service.runtime.pool
        ) as reader:
            assert reader.digest == source.digest
    for copy in copies:
        await delete(service, copy)
    assert await service.left() == {}
