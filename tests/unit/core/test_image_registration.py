"""Filling prepared images: what stays of them, what a failure leaves, races, and what is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobStore, Conflict, FailedPrecondition, ImsError, NotFound, blob_id
from imsd.core.image_changes import ImageRef, change
from imsd.core.image_deletion import ImageDeletion
from imsd.core.image_file import ImageFile
from imsd.core.image_preparing import prepare_image
from imsd.core.image_update import ImageChange, ImageUpdates
from imsd.core.jobs import JobView
from imsd.core.new_image import NewImage
from imsd.core.quota_rules import IMAGES
from imsd.core.requests import RequestKey
from imsd.core.sources import Source, SourceKind
from imsd.core.uploads import NewUpload
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, ImageStatus, JobState, OriginKind, Visibility
from imsd.testing.memory_store import MemoryStore
from tests.packages import ova
from tests.unit.core.core_world import buckets_of, new_id
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.formats.crafted_iso import disc
from tests.unit.formats.crafted_qcow2 import finely_divided

DISK = random.Random(1).randbytes(3 * MIB)
ISO = disc(bootable=True)
QCOW2 = finely_divided(MIB)
ABOUT: dict[str, Any] = {
    "name": "appliance",
    "description": "what it is",
    "os_version": "Debian GNU/Linux 12.0.0 64bit",
    "tags": {"team": "web"},
    "properties": {"colour": "red"},
    "family": "debian",
    "min_disk_gb": 7,
    "min_ram_mb": 512,
    "max_ram_mb": 1024,
    "is_protected": True,
}
# What changes while an image waits again.
PASSING: dict[str, Any] = {"version": 0, "updated_at": None, "job_id": ""}


@pytest.fixture
def bucket() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def world(database: Database, bucket: MemoryStore, tmp_path: Path) -> ImportWorld:
    return ImportWorld(database, (tmp_path,), buckets_of(main=bucket))


@pytest.fixture
async def service(world: ImportWorld) -> AsyncIterator[ImportService]:
    async with world.serving() as service:
        yield service


def key(request_id: str = "", fingerprint: str = "") -> RequestKey:
    return RequestKey(PROJECT, request_id, fingerprint or new_id())


def ref(image_id: str, etag: str = "") -> ImageRef:
    return ImageRef(PROJECT, image_id, etag)


async def prepared(service: ImportService, **about: Any) -> ImageRecord:
    return await prepare_image(service.runtime, key(), NewImage(**({"name": "appliance"} | about)))


async def register(service: ImportService, image: ImageRecord, **file: Any) -> str:
    """The id of the job."""
    return await service.images.register(key(), ref(image.id), ImageFile(**file))


async def fill(service: ImportService, image: ImageRecord, content: bytes = DISK) -> JobView:
    return await service.end_of(await register(service, image, upload_id=await service.send(content)))


async def filled(service: ImportService, view: JobView) -> ImageRecord:
    assert view.record.state is JobState.SUCCESS, view
    image = await service.image(view.record.image_id)
    assert image.status is ImageStatus.ACTIVE
    assert view.record.result["image_ids"] == [image.id]
    return image


async def require_waiting(service: ImportService, image: ImageRecord) -> None:
    """It is as it was prepared, and nothing but its row is left of what was tried."""
    now = await service.image(image.id)
    assert replace(now, **PASSING) == replace(image, **PASSING)
    assert await service.left() == {"image": 1}


def digest_of(content: bytes) -> str:
    hasher = TreeHasher()
    hasher.update(content)
    return hasher.digest()


def object_source(name: str = "Disk.raw") -> Source:
    return Source(SourceKind.OBJECT, f"main:{name}")


async def put(store: BlobStore, content: bytes) -> None:
    async with store.begin(blob_id("Disk.raw")) as ingest:
        await ingest.write([content])
        await ingest.commit()


async def test_an_image_that_is_filled_is_what_it_was_prepared_as(service: ImportService) -> None:
    image = await prepared(service, **ABOUT)
    assert image.status is ImageStatus.QUEUED
    upload = await service.send(DISK, file_name="disk.raw")
    now = await filled(service, await service.end_of(await register(service, image, upload_id=upload)))
    assert (now.id, now.created_at) == (image.id, image.created_at)
    assert {name: getattr(now, name) for name in ABOUT} == ABOUT
    assert (now.disk_format, now.digest) == ("raw", digest_of(DISK))
    assert (now.origin_kind, now.origin) == (OriginKind.UPLOAD, "disk.raw")
    assert (await service.left())["image"] == 1


async def test_an_object_and_a_file_of_the_machine_fill_it_too(
    service: ImportService, bucket: MemoryStore, tmp_path: Path
) -> None:
    await put(bucket, DISK)
    (tmp_path / "disk").write_bytes(DISK)
    for source in (object_source(), Source(SourceKind.LOCAL_PATH, str(tmp_path / "disk"))):
        image = await prepared(service)
        now = await filled(service, await service.end_of(await register(service, image, source=source)))
        assert (now.origin, now.digest) == (source.value, digest_of(DISK))


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [("", ISO, "iso"), ("iso", ISO, "iso"), ("data_disk", DISK, "data_disk")],
)
async def test_the_kind_is_proved(service: ImportService, kind: str, content: bytes, expected: str) -> None:
    image = await prepared(service, kind=kind)
    assert (await filled(service, await fill(service, image, content))).kind == expected


@pytest.mark.parametrize(
    ("about", "content", "reason"),
    [
        ({}, b"KDMV" + bytes(5000), "FORMAT_UNSUPPORTED"),
        ({}, QCOW2[:-1], "IMAGE_TRUNCATED"),
        ({"kind": "iso"}, DISK, "IMAGE_KIND_UNSUITED"),
        ({"kind": "data_disk"}, ISO, "IMAGE_KIND_UNSUITED"),
        ({"disk_format": "vmdk"}, DISK, "FORMAT_MISMATCH"),
    ],
)
async def test_after_a_failure_it_waits_again_and_another_file_fills_it(
    service: ImportService, about: dict[str, Any], content: bytes, reason: str
) -> None:
    image = await prepared(service, **ABOUT | {"min_disk_gb": 0} | about)
    view = await fill(service, image, content)
    assert failed(view) == reason
    with suppress(NotFound):  # one that could be another image's is kept
        await service.uploads.delete(PROJECT, view.record.upload_id)
    await require_waiting(service, image)
    if not about:
        now = await filled(service, await fill(service, image))
        assert (now.name, now.tags) == (image.name, image.tags)


async def test_a_format_that_was_declared_wrong_is_changed_and_the_file_fills_it(
    service: ImportService,
) -> None:
    image = await prepared(service, disk_format="vmdk")
    upload_id = await service.send(DISK)
    failure = await service.end_of(await register(service, image, upload_id=upload_id))
    assert failed(failure) == "FORMAT_MISMATCH"
    assert "`imsctl image set --format raw`" in failure.record.error_hint
    updates = ImageUpdates(service.runtime)
    await updates.update(ImageRef(PROJECT, image.id), ImageChange(values={"disk_format": "raw"}))
    assert (await filled(service, await fill(service, image))).disk_format == "raw"


async def test_what_could_not_be_fetched_leaves_it_waiting(
    service: ImportService, bucket: MemoryStore
) -> None:
    await put(bucket, DISK)
    image = await prepared(service, **ABOUT)
    job = await register(service, image, source=object_source(), expected_sha256="0" * 64)
    assert failed(await service.end_of(job)) == "DIGEST_MISMATCH"
    await require_waiting(service, image)


async def send_zeros(service: ImportService, size_bytes: int) -> str:
    """The id of an upload."""
    upload = await service.uploads.create(key(), NewUpload())
    async with service.uploads.writing(PROJECT, upload.id, 0) as session:
        await session.write_zeros(size_bytes)
        await session.flush()
    await service.uploads.commit(PROJECT, upload.id, size_bytes, "")
    return upload.id


async def test_a_smallest_disk_that_is_too_small_leaves_it_waiting(service: ImportService) -> None:
    image = await prepared(service, min_disk_gb=1)
    view = await service.end_of(await register(service, image, upload_id=await send_zeros(service, 2 << 30)))
    assert failed(view) == "MIN_DISK_TOO_SMALL"
    again = replace(await service.image(image.id), **PASSING)
    assert again == replace(image, **PASSING)


async def test_a_smallest_disk_that_is_changed_before_the_job_begins_counts(
    service: ImportService, bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(bucket, DISK)
    monkeypatch.setattr(MemoryStore, "read", never)
    first = await register(service, await prepared(service), source=object_source())
    await service.until(first, lambda view: view.record.phase == "fetch")
    image = await prepared(service, min_disk_gb=1)
    job = await register(service, image, upload_id=await send_zeros(service, 2 << 30))
    ref, change = ImageRef(PROJECT, image.id), ImageChange(values={"min_disk_gb": 3})
    await ImageUpdates(service.runtime).update(ref, change)
    await service.jobs.cancel(PROJECT, first)
    monkeypatch.undo()
    assert (await filled(service, await service.end_of(job))).min_disk_gb == 3


@pytest.mark.parametrize("phase", ["fetch", "guest"])
async def test_after_a_cancellation_it_waits_again(
    world: ImportWorld, bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    await put(bucket, DISK)
    async with world.serving(hold_at=1) as service:
        if phase == "fetch":
            monkeypatch.setattr(MemoryStore, "read", never)
        image = await prepared(service, **ABOUT)
        job = await register(service, image, source=object_source())
        await service.until(job, lambda view: view.record.phase == phase)
        await service.jobs.cancel(PROJECT, job)
        assert (await service.end_of(job)).record.state is JobState.CANCELLED
        monkeypatch.undo()
        await require_waiting(service, image)


async def never(*_: object) -> list[bytes]:
    await asyncio.Event().wait()
    return []


async def test_the_next_run_of_the_daemon_goes_on(world: ImportWorld) -> None:
    async with world.serving(hold_at=1) as service:
        image = await prepared(service, **ABOUT)
        job = await register(service, image, upload_id=await service.send(DISK))
        await service.until(job, lambda view: view.record.phase == "guest")
        assert (await service.image(image.id)).status is ImageStatus.SAVING
    async with world.serving() as service:
        now = await filled(service, await service.end_of(job))
        assert (now.id, now.tags, now.digest) == (image.id, image.tags, digest_of(DISK))


async def test_only_one_of_many_jobs_fills_it(service: ImportService) -> None:
    image = await prepared(service)
    uploads = [await service.send(DISK) for _ in range(4)]
    outcomes = await asyncio.gather(
        *(register(service, image, upload_id=upload) for upload in uploads), return_exceptions=True
    )
    jobs = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(jobs) == 1
    for upload, outcome in zip(uploads, outcomes, strict=True):
        if not isinstance(outcome, str):
            assert isinstance(outcome, FailedPrecondition | Conflict)
            assert outcome.hint
            assert not (await service.uploads.get(PROJECT, upload)).job_id
    await filled(service, await service.end_of(jobs[0]))


@pytest.mark.parametrize("seed", range(8))
async def test_it_is_either_filled_or_deleted(service: ImportService, seed: int) -> None:
    image, dice = await prepared(service), random.Random(seed)
    upload = await service.send(DISK)
    deletion = ImageDeletion(service.runtime, service.sweeper)

    async def delete() -> None:
        await asyncio.sleep(dice.random() / 100)
        await deletion.delete(ImageRef(PROJECT, image.id), is_final=True)

    async def start() -> str:
        await asyncio.sleep(dice.random() / 100)
        return await register(service, image, upload_id=upload)

    deleted, job = await asyncio.gather(delete(), start(), return_exceptions=True)
    if isinstance(job, str):
        assert isinstance(deleted, FailedPrecondition | Conflict), deleted
        await filled(service, await service.end_of(job))
    else:
        assert deleted is None
        assert isinstance(job, NotFound | Conflict), job
        await service.uploads.delete(PROJECT, upload)
        assert await service.left() == {}


async def test_one_that_failed_can_be_deleted(service: ImportService) -> None:
    image = await prepared(service)
    assert failed(await fill(service, image, b"KDMV" + bytes(5000))) == "FORMAT_UNSUPPORTED"
    await ImageDeletion(service.runtime, service.sweeper).delete(ImageRef(PROJECT, image.id), is_final=False)
    assert await service.left() == {}


async def refusal(service: ImportService, image_id: str, **file: Any) -> tuple[str, str]:
    """Reason and field."""
    with pytest.raises(ImsError) as refused:
        await service.images.register(key(), ref(image_id), ImageFile(**file))
    assert refused.value.hint or refused.value.reason == "INVALID_REQUEST"
    assert "CreateQueuedImage" not in refused.value.hint, "a hint names a command"
    return refused.value.reason, refused.value.field


async def test_what_does_not_wait_for_a_file_is_not_filled(service: ImportService) -> None:
    upload = await service.send(DISK)
    other = await service.image((await service.import_file(DISK)).record.image_id)
    done = await filled(service, await fill(service, await prepared(service)))
    for image in (other, done):
        assert await refusal(service, image.id, upload_id=upload) == ("FAILED_PRECONDITION", "image_id")
    assert (await refusal(service, new_id(), upload_id=upload))[0] == "NOT_FOUND"
    assert await refusal(service, "x", upload_id=upload) == ("INVALID_REQUEST", "image_id")
    theirs = await prepare_image(service.runtime, RequestKey("other", "", "x"), NewImage(name="theirs"))
    assert (await refusal(service, theirs.id, upload_id=upload))[0] == "NOT_FOUND"
    async with service.runtime.database.transaction() as c:
        await change(c, service.runtime, theirs, {"visibility": Visibility.PUBLIC})
    assert await refusal(service, theirs.id, upload_id=upload) == ("NOT_OWNER", "image_id")
    await filled(service, await service.end_of(await service.start(upload_id=upload)))


async def test_a_file_that_is_no_good_is_refused_at_once(service: ImportService, bucket: MemoryStore) -> None:
    image = await prepared(service)
    fast = await service.send(DISK, is_fast=True)
    opened = (await service.uploads.create(key(), NewUpload())).id
    sent = await service.send(DISK)
    expected: list[tuple[dict[str, Any], str]] = [
        ({"upload_id": ""}, "INVALID_REQUEST"),
        ({"upload_id": new_id()}, "NOT_FOUND"),
        ({"upload_id": opened}, "FAILED_PRECONDITION"),
        ({"upload_id": fast}, "FAILED_PRECONDITION"),
        ({"upload_id": sent, "expected_sha256": "0" * 64}, "INVALID_REQUEST"),
        ({"source": object_source("none")}, "OBJECT_NOT_FOUND"),
        ({"source": Source(SourceKind.OBJECT, "other:x")}, "BUCKET_NOT_FOUND"),
        ({"source": Source(SourceKind.LOCAL_PATH, "/etc/passwd")}, "PERMISSION_DENIED"),
        ({"source": Source(SourceKind.URL, "http://example.org")}, "URL_REFUSED"),
    ]
    for file, reason in expected:
        assert (await refusal(service, image.id, **file))[0] == reason
    assert await service.image(image.id) == image


async def test_a_large_file_does_not_fill_it(world: ImportWorld, bucket: MemoryStore) -> None:
    await put(bucket, DISK)
    async with world.serving(max_import_bytes=len(DISK) - 1) as service:
        image = await prepared(service)
        told = await refusal(service, image.id, source=object_source())
        assert told == ("IMAGE_FILE_TOO_LARGE", "size_bytes")


async def test_a_package_fills_nothing_and_can_be_imported_then(service: ImportService) -> None:
    package = ova({"disk.vmdk": QCOW2})
    image = await prepared(service)
    view = await fill(service, image, package)
    assert failed(view) == "IMAGE_KIND_UNSUITED"
    assert (await service.image(image.id)).status is ImageStatus.QUEUED
    done = await service.end_of(await service.start(upload_id=view.record.upload_id))
    assert done.record.state is JobState.SUCCESS


async def test_a_repeat_gets_the_job_of_the_first(service: ImportService) -> None:
    image = await prepared(service)
    file = ImageFile(upload_id=await service.send(DISK))
    first = await service.images.register(key("once", "same"), ref(image.id), file)
    await service.end_of(first)
    assert await service.images.register(key("once", "same"), ref(image.id), file) == first
    with pytest.raises(ImsError) as reused:
        await service.images.register(key("once", "other"), ref(image.id), file)
    assert reused.value.reason == "REQUEST_ID_REUSED"


async def test_an_image_is_filled_only_at_the_etag_that_was_read(service: ImportService) -> None:
    image = await prepared(service)
    file = ImageFile(upload_id=await service.send(DISK))
    stale = ref(image.id, f"{image.version + 1}")
    for refused in (
        service.images.register(key(), stale, file),
        service.images.check_registered(stale, file),
    ):
        with pytest.raises(Conflict):
            await refused
    assert await service.image(image.id) == image
    job_id = await service.images.register(key(), ref(image.id, f"{image.version}"), file)
    await filled(service, await service.end_of(job_id))


async def test_a_full_project_can_fill_what_it_has(world: ImportWorld) -> None:
    async with world.serving() as service:
        image = await prepared(service)
        limits = replace(service.runtime.limits, quotas={IMAGES: 1})
        service.images._runtime = replace(service.runtime, limits=limits)
        with pytest.raises(ImsError) as full:
            await service.start(upload_id=await service.send(DISK))
        assert full.value.reason == "QUOTA_EXCEEDED"
        await filled(service, await fill(service, image))


async def test_the_image_can_be_changed_while_it_waits(service: ImportService) -> None:
    image = await prepared(service)
    async with service.runtime.database.transaction() as c:
        renamed = await image_rows.update_image(c, image.id, {"name": "new"}, statuses=[ImageStatus.QUEUED])
    assert renamed
    assert (await filled(service, await fill(service, renamed))).name == "new"
