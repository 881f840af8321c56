"""Copies of images: what they cost, whose bytes they are, which rules hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from typing import Any, cast

import pytest
from sqlalchemy import select

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.contract import FailedPrecondition, InvalidRequest, LimitExceeded, NotFound
from imsd.core.image_changes import ImageRef
from imsd.core.image_copies import COPIED, NewCopy, queued_copy
from imsd.core.image_deletion import ImageDeletion
from imsd.core.requests import RequestKey
from imsd.metadata import images as image_rows
from imsd.metadata import quotas as quota_rows
from imsd.metadata.database import Database
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
from tests.unit.core.coarse_disks import fast_imported
from tests.unit.core.copy_world import (
    MARKED,
    OTHER,
    UNMARKED,
    a_disk,
    changed,
    content_of,
    copied,
    delete,
    imported,
    record_of,
    share,
    started,
    verified,
)
from tests.unit.core.core_world import STORE, new_id, now
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.metadata.samples import an_image


@pytest.fixture
async def service(database: Database) -> AsyncIterator[ImportService]:
    async with ImportWorld(database).serving() as service:
        yield service


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
        ({"data_size": (128 << 30) + 1}, LimitExceeded, "COPY_TOO_LARGE"),
        ({"status": ImageStatus.QUEUED}, FailedPrecondition, "IMAGE_NOT_ACTIVE"),
        ({"status": ImageStatus.SAVING}, FailedPrecondition, "IMAGE_NOT_ACTIVE"),
        ({"status": ImageStatus.DEACTIVATED}, FailedPrecondition, "IMAGE_NOT_ACTIVE"),
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


@pytest.mark.parametrize(
    "sizes",
    [{"data_size": 128 << 30}, {"data_size": 1 << 20, "virtual_size": 1 << 40}],
    ids=["limit", "sparse"],
)
async def test_the_data_of_an_image_up_to_128_gb_is_copied_however_large_its_disk(
    service: ImportService, sizes: dict[str, int]
) -> None:
    record = await put(service, **sizes, manifest_id="0" * 32)
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


async def test_copies_imports_and_undeletions_at_once_stay_within_the_quota(
    database: Database,
) -> None:
    async with ImportWorld(database).serving(quotas={"images": 6}) as service:
        source, *gone = [await imported(service, a_disk(seed, 1)) for seed in (20, 21, 22)]
        deletion = ImageDeletion(service.runtime, service.sweeper)
        for each in gone:
            await deletion.delete(ImageRef(PROJECT, each.id), is_final=False)
        uploads = [await service.send(a_disk(23, 1)) for _ in range(4)]
        outcomes = await asyncio.gather(
            *(started(service, source.id, name=f"copy-{n}") for n in range(4)),
            *(service.start(upload_id=upload_id) for upload_id in uploads),
            *(deletion.undelete(ImageRef(PROJECT, each.id)) for each in gone),
            return_exceptions=True,
        )
        refused = [each for each in outcomes if isinstance(each, LimitExceeded)]
        assert {each.reason for each in refused} == {"QUOTA_EXCEEDED"}
        done = [each for each in outcomes if not isinstance(each, BaseException)]
        assert (len(done), len(refused)) == (5, 5)
        for job_id in [each for each in done if isinstance(each, str)]:
            assert (await service.end_of(job_id)).record.state is JobState.SUCCESS
        async with service.runtime.database.reading() as c:
            assert await quota_rows.used(c, PROJECT, "images") == 6


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
