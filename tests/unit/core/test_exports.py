"""Exports: the file that comes of an image, and what is left of one that does not end well."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from imsd_localfs.options import LocalBucketOptions
from imsd_localfs.store import open_local_store
from sqlalchemy import select

from imsd.chunks.disk_digest import digest_blocks
from imsd.contract import BlobStore, ByteRange, ImsError, blob_id, run_blocking
from imsd.core import usage
from imsd.core.export_target import ExportedObject
from imsd.core.image_exports import NewExport
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, ImageStatus, JobKind, JobRecord, JobState, Visibility
from imsd.metadata.tables import usage_record
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import buckets_of, new_id, now
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed

NAME = blob_id("disks/Debian.x")
TARGET = f"main:{NAME}"
FORMATS = ["vmdk", "vhd", "qcow2", "zvhd", "zvhd2"]


def a_disk(mebibytes: int = 5, seed: int = 1) -> bytes:
    dice = random.Random(seed)
    return dice.randbytes(MIB) + bytes(MIB) + b"text, text" * (MIB // 10) + dice.randbytes(mebibytes * MIB)


def sectors(disk: bytes) -> bytes:
    return disk + bytes(-len(disk) % 512)


@pytest.fixture
def bucket() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def world(database: Database, bucket: FaultyStore) -> ImportWorld:
    return ImportWorld(database, buckets=buckets_of(main=bucket))


@pytest.fixture
async def service(world: ImportWorld) -> AsyncIterator[ImportService]:
    async with world.serving() as service:
        yield service


async def imported(service: ImportService, disk: bytes) -> ImageRecord:
    view = await service.import_file(disk, disk_format="raw")
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def start(
    service: ImportService, image: ImageRecord, disk_format: str = "zvhd2", request: str = "", **more: Any
) -> str:
    wanted: dict[str, Any] = {"image_id": image.id, "target": TARGET} | more
    wanted |= {"is_fast": True} if disk_format == "zvhd2" else {"disk_format": disk_format}
    return await service.exports.start(RequestKey(PROJECT, request, disk_format), NewExport(**wanted))


async def refusal(service: ImportService, image: ImageRecord, **more: Any) -> str:
    with pytest.raises(ImsError) as refused:
        await start(service, image, **more)
    assert refused.value.hint
    return refused.value.reason


async def exported(service: ImportService, image: ImageRecord, disk_format: str = "zvhd2") -> JobView:
    view = await service.end_of(await start(service, image, disk_format))
    assert view.record.state is JobState.SUCCESS, view
    return view


async def content_of(store: BlobStore, name: str = NAME) -> bytes:
    found = await store.stat(blob_id(name))
    return (await store.read(found.id, [ByteRange(0, found.size_bytes)]))[0]


async def objects(store: BlobStore) -> list[str]:
    return [stored.id async for stored in store.list()]


async def put(store: BlobStore, name: str, content: bytes) -> None:
    async with store.begin(blob_id(name)) as ingest:
        await ingest.write([content])
        await ingest.commit()


async def row_of(service: ImportService, job_id: str) -> JobRecord:
    async with service.runtime.database.reading() as c:
        found = await job_rows.get_job(c, PROJECT, job_id)
    assert found is not None
    return found


async def used(service: ImportService, resource: str) -> int:
    async with service.runtime.database.reading() as c:
        rows = await c.execute(select(usage_record.c.quantity).where(usage_record.c.resource == resource))
        return sum(rows.scalars())


def everything_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.rglob("*")))


def compare(driver: str, file: Path, raw: Path) -> None:
    command = ["qemu-img", "compare", "-f", driver, "-F", "raw", str(file), str(raw)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("disk_format", FORMATS)
async def test_the_object_is_the_disk_in_the_format_asked_for(
    service: ImportService, bucket: FaultyStore, tmp_path: Path, disk_format: str
) -> None:
    disk = a_disk()
    image = await imported(service, disk)
    view = await exported(service, image, disk_format)
    content = await content_of(bucket)
    report = ExportedObject.of_result(view.record.result)
    assert await used(service, usage.EXPORT_BYTES) == len(content)
    assert report == ExportedObject(TARGET, len(content), hashlib.sha256(content).hexdigest())
    opened = open_image(MemorySource(content), None, 1 << 40)
    assert opened.format_name == disk_format
    back = bytearray(opened.blocks.size_bytes)
    opened.blocks.read_into(0, memoryview(back))
    assert bytes(back).rstrip(b"\0") == disk.rstrip(b"\0")
    if opened.blocks.size_bytes == len(sectors(disk)):  # VHD rounds up
        assert digest_blocks(opened.blocks) == image.digest
    if shutil.which("qemu-img") and disk_format in ("vmdk", "vhd", "qcow2"):
        (tmp_path / "raw").write_bytes(bytes(back))
        (tmp_path / "file").write_bytes(content)
        driver = {"vhd": "vpc"}.get(disk_format, disk_format)
        await run_blocking(compare, driver, tmp_path / "file", tmp_path / "raw")


async def test_a_fast_export_gives_the_stored_frames_away_as_they_are(
    service: ImportService, bucket: FaultyStore
) -> None:
    dice = random.Random(5)
    image = await imported(service, b"".join(dice.randbytes(2048) + bytes(2048) for _ in range(2048)))
    await exported(service, image)
    content = await content_of(bucket)
    store = service.runtime.stores.get(image.store)
    packs = [blob async for blob in store.list("packs/")]
    stored = b"".join([(await store.read(blob.id, [ByteRange(0, blob.size_bytes)]))[0] for blob in packs])
    frames = [at for at in range(len(stored)) if stored.startswith(b"\x28\xb5\x2f\xfd", at)]
    assert len(frames) > 16
    assert all(stored[at : at + 4096] in content for at in frames)


async def test_percent_and_bytes_are_told_and_do_not_fall(
    service: ImportService, bucket: FaultyStore
) -> None:
    image = await imported(service, a_disk(16))
    job_id = await start(service, image, "zvhd")
    seen = [view async for view in service.jobs.watch(PROJECT, job_id)]
    percents = [view.record.percent for view in seen]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    assert {view.record.phase for view in seen} <= {"queued", "measure", "export", "commit", "done"}
    assert seen[-1].record.bytes_total == image.data_size


@pytest.mark.parametrize(
    ("there", "target"),
    [
        (str(NAME), TARGET),
        ("disks", TARGET),
        (f"{NAME}/inside", TARGET),
    ],
)
async def test_an_existing_target_is_refused_at_once(
    service: ImportService, bucket: FaultyStore, there: str, target: str
) -> None:
    image = await imported(service, a_disk(1))
    await put(bucket, there, b"mine")
    assert await refusal(service, image, target=target) == "OBJECT_EXISTS"
    assert await content_of(bucket, there) == b"mine"


@pytest.mark.parametrize("there", [str(NAME), f"{NAME}/inside", "disks"])
async def test_a_target_that_appears_meanwhile_is_kept(
    service: ImportService, bucket: FaultyStore, there: str
) -> None:
    image = await imported(service, a_disk(1))
    bucket.add(Fault(call=Call.WRITE, kind=FaultKind.HANG))
    job_id = await start(service, image)
    while not bucket.hanging:
        await asyncio.sleep(0.001)
    await put(bucket, there, b"mine")
    bucket.heal()
    assert failed(await service.end_of(job_id)) == "OBJECT_EXISTS"
    assert await objects(bucket) == [there]
    assert await content_of(bucket, there) == b"mine"


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ("disks/Debian.x/", "OBJECT_EXISTS"),
        ("disks/Debian.x -> nowhere", "OBJECT_EXISTS"),
        ("disks -> {folder}", "FAILED_PRECONDITION"),
    ],
)
async def test_what_is_no_object_and_has_the_name_is_kept_too(
    database: Database, tmp_path: Path, there: str, reason: str
) -> None:
    (tmp_path / "bucket").mkdir()
    name, _, target = there.partition(" -> ")
    path = tmp_path / "bucket" / name
    path.parent.mkdir(exist_ok=True)
    if target:
        path.symlink_to(target.format(folder=tmp_path))
    else:
        path.mkdir()
    before = everything_in(tmp_path)
    async with (
        open_local_store(LocalBucketOptions(path=tmp_path / "bucket")) as store,
        ImportWorld(database, buckets=buckets_of(main=store)).serving() as service,
    ):
        view = await service.end_of(await start(service, await imported(service, a_disk(1))))
        assert failed(view) == reason
    assert everything_in(tmp_path) == before


async def test_of_two_exports_to_one_target_one_succeeds_and_its_object_stays(
    service: ImportService, bucket: FaultyStore
) -> None:
    image = await imported(service, a_disk(2))
    jobs = [await start(service, image) for _ in range(2)]
    views = [await service.end_of(job_id) for job_id in jobs]
    assert sorted(view.record.state for view in views) == [JobState.FAIL, JobState.SUCCESS]
    assert {view.record.error_reason for view in views} == {"", "OBJECT_EXISTS"}
    await service.left()
    won = next(view for view in views if view.record.state is JobState.SUCCESS)
    assert hashlib.sha256(await content_of(bucket)).hexdigest() == won.record.result["sha256"]


async def test_of_two_exports_that_are_equal_one_fails_and_removes_nothing(
    service: ImportService, bucket: FaultyStore
) -> None:
    image = await imported(service, a_disk(2))
    bucket.add(Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    first, second = await start(service, image), await start(service, image)
    while not bucket.hanging:
        await asyncio.sleep(0.001)
    await service.until(second, lambda view: view.record.phase == "commit")
    bucket.heal()
    views = [await service.end_of(job_id) for job_id in (first, second)]
    assert sorted(view.record.error_reason for view in views) == ["", "OBJECT_EXISTS"]
    await service.left()
    assert await objects(bucket) == [NAME]


@pytest.mark.parametrize("call", [Call.BEGIN, Call.WRITE, Call.COMMIT, Call.STAT])
async def test_a_cancelled_export_leaves_nothing(
    service: ImportService, bucket: FaultyStore, call: Call
) -> None:
    image = await imported(service, a_disk(4))
    before = await service.left()
    job_id = await start(service, image)
    bucket.add(Fault(call=call, kind=FaultKind.HANG, prefix=str(NAME)))
    while not bucket.hanging:
        await asyncio.sleep(0.001)
    await service.jobs.cancel(PROJECT, job_id)
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    assert await objects(bucket) == []
    assert await service.left() == before
    await exported(service, image)


@pytest.mark.parametrize("call", [Call.BEGIN, Call.WRITE, Call.COMMIT])
async def test_an_export_that_fails_leaves_nothing(
    service: ImportService, bucket: FaultyStore, call: Call
) -> None:
    image = await imported(service, a_disk(4))
    before = await service.left()
    bucket.add(Fault(call=call, kind=FaultKind.RAISE_BEFORE))
    view = await service.end_of(await start(service, image))
    assert view.record.state is JobState.FAIL
    assert view.record.error_reason == "STORE_UNAVAILABLE"
    assert (await service.left(), await objects(bucket)) == (before, [])


async def test_a_bucket_without_room_fails_the_job(database: Database) -> None:
    full = MemoryStore(capacity_bytes=2 * MIB)
    async with ImportWorld(database, buckets=buckets_of(main=full)).serving() as service:
        image = await imported(service, a_disk(4))
        view = await service.end_of(await start(service, image))
        assert view.record.error_reason == "CAPACITY_EXHAUSTED"
        assert (await objects(full), (await full.usage()).used_bytes) == ([], 0)


async def test_a_commit_of_which_nobody_knows_is_looked_at(
    service: ImportService, bucket: FaultyStore
) -> None:
    image = await imported(service, a_disk(2))
    bucket.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER))
    await exported(service, image)
    assert await objects(bucket) == [NAME]


@pytest.mark.parametrize("call", [Call.BEGIN, Call.WRITE, Call.COMMIT])
async def test_an_export_that_a_crash_broke_off_is_made_by_the_next_run(
    world: ImportWorld, bucket: FaultyStore, call: Call
) -> None:
    async with world.serving() as service:
        image = await imported(service, a_disk(4))
        bucket.add(Fault(call=call, kind=FaultKind.HANG))
        job_id = await start(service, image)
        while not bucket.hanging:
            await asyncio.sleep(0.001)
    bucket.heal()
    assert await objects(bucket) == []
    async with world.serving() as service:
        view = await service.end_of(job_id)
        assert (view.record.state, view.record.attempt) == (JobState.SUCCESS, 2), view
        assert hashlib.sha256(await content_of(bucket)).hexdigest() == view.record.result["sha256"]


async def orphan(
    service: ImportService, image: ImageRecord, written: ExportedObject, state: JobState
) -> JobRecord:
    """The row of an export whose daemon died when it had noted ``written``."""
    record = JobRecord(
        id=new_id(),
        project_id=PROJECT,
        kind=JobKind.EXPORT_IMAGE,
        state=state,
        spec={"target": written.target, "disk_format": "zvhd2"},
        result=asdict(written),
        image_id=image.id,
        created_at=now(),
    )
    async with service.runtime.database.transaction() as c:
        await job_rows.insert_job(c, record)
    return record


async def test_a_run_after_a_crash_knows_the_object_that_is_there(
    world: ImportWorld, bucket: FaultyStore
) -> None:
    async with world.serving() as service:
        image = await imported(service, a_disk(2))
        view = await exported(service, image)
        written = ExportedObject.of_result(view.record.result)
        assert written is not None
        crashed = await orphan(service, image, written, JobState.RUNNING)
        writes = bucket.calls[Call.WRITE]
    async with world.serving() as service:
        view = await service.end_of(crashed.id)
        assert (view.record.state, view.record.result) == (JobState.SUCCESS, asdict(written)), view
        assert bucket.calls[Call.WRITE] == writes


@pytest.mark.parametrize("is_same", [True, False])
async def test_what_was_committed_before_the_cancelling_is_removed_and_nothing_else(
    world: ImportWorld, bucket: FaultyStore, is_same: bool
) -> None:
    async with world.serving() as service:
        image = await imported(service, a_disk(2))
        written = ExportedObject.of_result((await exported(service, image)).record.result)
        assert written is not None
        if not is_same:
            content = await content_of(bucket)
            await bucket.delete(NAME)
            await put(bucket, NAME, content[:-1] + bytes([content[-1] ^ 1]))
        crashed = await orphan(service, image, written, JobState.CANCELLING)
    async with world.serving() as service:
        assert (await service.end_of(crashed.id)).record.state is JobState.CANCELLED
    assert await objects(bucket) == ([] if is_same else [NAME])


async def test_a_cancelled_export_into_a_bucket_that_is_gone_ends(
    database: Database, bucket: FaultyStore
) -> None:
    async with ImportWorld(database, buckets=buckets_of(main=bucket)).serving() as service:
        image = await imported(service, a_disk(1))
        crashed = await orphan(service, image, ExportedObject(TARGET, 1, "0" * 64), JobState.CANCELLING)
    async with ImportWorld(database).serving() as service:
        assert (await service.end_of(crashed.id)).record.state is JobState.CANCELLED


async def test_a_repeated_request_gets_the_first_job_though_the_object_is_there(
    service: ImportService, bucket: FaultyStore
) -> None:
    image = await imported(service, a_disk(1))
    first = await start(service, image, request="once")
    await service.end_of(first)
    assert await start(service, image, request="once") == first
    assert await refusal(service, image, request="twice") == "OBJECT_EXISTS"


async def test_an_image_that_is_deleted_meanwhile_is_exported_all_the_same(
    service: ImportService, bucket: FaultyStore
) -> None:
    disk = a_disk(4)
    image = await imported(service, disk)
    bucket.add(Fault(call=Call.WRITE, kind=FaultKind.HANG))
    job_id = await start(service, image)
    while not bucket.hanging:
        await asyncio.sleep(0.001)
    async with service.runtime.database.transaction() as c:
        await image_rows.delete_image_row(c, image.id)
    bucket.heal()
    assert (await service.end_of(job_id)).record.state is JobState.SUCCESS


Change = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"visibility": Visibility.PUBLIC}, "IMAGE_PUBLIC"),
        ({"is_published": True}, "IMAGE_PUBLISHED"),
        ({"status": ImageStatus.DEACTIVATED}, "IMAGE_NOT_ACTIVE"),
        (None, "NOT_FOUND"),
    ],
)
async def test_what_holds_when_it_is_asked_for_holds_when_it_begins(
    world: ImportWorld, bucket: FaultyStore, change: Change | None, reason: str
) -> None:
    async with world.serving() as service:
        image = await imported(service, a_disk(1))
        assert not await objects(bucket)
        service.dispatcher.dispatch = lambda record: None  # type: ignore[method-assign]  # not yet
        job_id = await start(service, image)
        async with service.runtime.database.transaction() as c:
            if change:
                await image_rows.update_image(c, image.id, change, statuses=[ImageStatus.ACTIVE])
            else:
                await image_rows.delete_image_row(c, image.id)
    async with world.serving() as service:
        assert failed(await service.end_of(job_id)) == reason
        assert await objects(bucket) == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"image_id": "x"}, "INVALID_REQUEST"),
        ({"image_id": "00000000-0000-4000-8000-000000000000"}, "NOT_FOUND"),
        ({"target": "nowhere:x"}, "BUCKET_NOT_FOUND"),
        ({"target": "main:../x"}, "OBJECT_NAME_INVALID"),
        ({"target": "main"}, "INVALID_REQUEST"),
        ({"disk_format": "raw"}, "FORMAT_UNSUPPORTED"),
    ],
)
async def test_a_wrong_request_is_refused_and_starts_nothing(
    service: ImportService, more: dict[str, Any], reason: str
) -> None:
    image = await imported(service, a_disk(1))
    before = await service.left()
    assert await refusal(service, image, **more) == reason
    assert await service.left() == before
