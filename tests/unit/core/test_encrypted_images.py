"""Encrypted images: no byte of them and no data key is kept as it is, whatever way they came and went."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imsd.contract import FailedPrecondition, ImsError, InvalidRequest, KeyState, NotFound, Unavailable
from imsd.core.file_blocks import FileRange
from imsd.core.handed_files import HandedFile
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import ImageDeletion
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.core.sources import Source, SourceKind
from imsd.core.uploads import NewUpload
from imsd.metadata import image_lists
from imsd.metadata import keys as key_rows
from imsd.metadata.database import Database
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord, JobState
from imsd.metadata.tables import upload
from tests.packages import ova
from tests.unit.core.copy_world import content_of, verified
from tests.unit.core.core_world import new_id
from tests.unit.core.encrypted_world import (
    DISK,
    as_format,
    blobs_of,
    data_keys,
    marks,
    new_key,
    require_secret,
)
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.core.key_world import Clock, CountingKeys

FORMATS: dict[str, Callable[[Path], bytes]] = {
    "raw": lambda _: DISK,
    "qcow2": lambda folder: as_format("qcow2", folder),
    "zvhd2": lambda folder: as_format("zvhd2", folder),
    "vmdk": lambda folder: as_format("vmdk", folder),
    "raw.gz": lambda _: gzip.compress(DISK, 1),
    "qcow2.gz": lambda folder: gzip.compress(as_format("qcow2", folder), 1),
}


@pytest.fixture
def key_service() -> CountingKeys:
    return CountingKeys(Clock())


@pytest.fixture
def world(database: Database, tmp_path: Path, key_service: CountingKeys) -> ImportWorld:
    return ImportWorld(database, (tmp_path,), key_service=key_service)


@pytest.fixture
async def service(world: ImportWorld) -> AsyncIterator[ImportService]:
    async with world.serving() as service:
        yield service


async def made(service: ImportService, view: JobView) -> ImageRecord:
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def encrypted(service: ImportService, disk: bytes = DISK, name: str = "payroll") -> ImageRecord:
    await new_key(service, name)
    return await made(service, await service.import_file(disk, disk_format="raw", key=name))


@pytest.mark.parametrize("file", FORMATS)
async def test_whatever_the_file_nothing_of_it_is_kept_as_it_is(
    service: ImportService, tmp_path: Path, file: str
) -> None:
    key = await new_key(service)
    content = FORMATS[file](tmp_path)
    upload_id = await service.send(content, key="payroll")
    await require_secret(service, tmp_path, DISK)
    await require_secret(service, tmp_path, content)
    image = await made(service, await service.end_of(await service.start(upload_id=upload_id)))
    await require_secret(service, tmp_path, DISK)
    assert image.key_id == key.id
    assert image.digest.startswith("b3k:")
    assert await content_of(service, image) == DISK
    await verified(service, image)
    assert [each.image_id for each in await data_keys(service)] == [image.id]


async def test_the_look_at_what_is_kept_finds_what_is_not_encrypted(
    service: ImportService, tmp_path: Path
) -> None:
    await service.import_file(DISK, disk_format="raw")
    with pytest.raises(AssertionError):
        await require_secret(service, tmp_path, DISK)


async def test_two_encrypted_images_of_one_disk_share_nothing(service: ImportService) -> None:
    one = await encrypted(service)
    other = await made(service, await service.import_file(DISK, disk_format="raw", key="payroll"))
    assert one.digest != other.digest
    assert other.new_size == other.stored_size
    await service.import_file(DISK, disk_format="raw")
    assert await content_of(service, one) == await content_of(service, other) == DISK


@pytest.mark.parametrize("file", ["raw", "qcow2", "zvhd2"])
async def test_an_upload_goes_on_in_another_daemon(world: ImportWorld, tmp_path: Path, file: str) -> None:
    content = FORMATS[file](tmp_path)
    async with world.serving() as service:
        await new_key(service)
        opened = await service.uploads.create(
            RequestKey(PROJECT, "", new_id()), NewUpload(key="payroll", size_bytes=len(content))
        )
        async with service.uploads.writing(PROJECT, opened.id, 0) as session:
            # Not where a chunk ends, nor a part: what is undecided is kept, too.
            await session.write(content[: MIB - 700])
            await session.write(content[MIB - 700 : MIB + 1234])
            await session.flush()
        await require_secret(service, tmp_path, content)
    async with world.serving() as service:
        offset = (await service.uploads.get(PROJECT, opened.id)).committed_offset
        assert offset > 0
        async with service.uploads.writing(PROJECT, opened.id, offset) as session:
            for start in range(offset, len(content), MIB):
                await session.write(content[start : start + MIB])
            await session.flush()
        await service.uploads.commit(PROJECT, opened.id, len(content), "")
        image = await made(service, await service.end_of(await service.start(upload_id=opened.id)))
        assert await content_of(service, image) == DISK


async def test_a_file_that_was_handed_over_is_encrypted(service: ImportService, tmp_path: Path) -> None:
    await new_key(service)
    path = tmp_path / "disk.qcow2"
    as_format("qcow2", tmp_path)
    opened = await service.uploads.create(RequestKey(PROJECT, "", new_id()), NewUpload(key="payroll"))
    with HandedFile.examine(os.open(path, os.O_RDONLY)) as file:
        async with service.uploads.writing(PROJECT, opened.id, 0) as session:
            async for step in file.steps(0, service.runtime.pool, MIB):
                assert isinstance(step, FileRange)
                await session.copy(step)
            await session.flush()
    await service.uploads.commit(PROJECT, opened.id, path.stat().st_size, "")
    image = await made(service, await service.end_of(await service.start(upload_id=opened.id)))
    assert await content_of(service, image) == DISK
    kept = b"\0".join(await blobs_of(service.runtime.stores.get(image.store)))
    assert [mark for mark in marks(DISK) if mark in kept] == []


async def test_what_the_daemon_fetches_is_encrypted(service: ImportService, tmp_path: Path) -> None:
    key = await new_key(service)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "disk.qcow2").write_bytes(as_format("qcow2", tmp_path))
    source = Source(SourceKind.LOCAL_PATH, str(folder / "disk.qcow2"))
    image = await made(service, await service.end_of(await service.start(source=source, key=key.id)))
    assert image.key_id == key.id
    assert await content_of(service, image) == DISK
    await require_secret(service, tmp_path, DISK)


async def test_each_disk_of_a_package_has_a_data_key_of_its_own(
    service: ImportService, tmp_path: Path
) -> None:
    await new_key(service)
    disks = [DISK[: 3 * MIB], DISK[MIB : 4 * MIB]]
    files = {
        "one.vmdk": as_format("vmdk", tmp_path, disks[0]),
        "two.vmdk": gzip.compress(as_format("qcow2", tmp_path, disks[1]), 1),
    }
    upload_id = await service.send(ova(files), key="payroll")
    await require_secret(service, tmp_path, DISK)
    view = await service.end_of(await service.start(upload_id=upload_id))
    assert view.record.state is JobState.SUCCESS, view
    images = [await service.image(each) for each in view.image_ids]
    assert [await content_of(service, image) for image in images] == disks
    assert sorted(each.image_id for each in await data_keys(service)) == sorted(view.image_ids)
    await require_secret(service, tmp_path, DISK)


async def test_a_data_key_is_unwrapped_once_for_each_use_of_an_image(
    service: ImportService, key_service: CountingKeys
) -> None:
    image = await encrypted(service)
    service.runtime.data_keys.forget(image.key_id)
    key_service.unwrapped = 0
    await content_of(service, image)
    assert key_service.unwrapped == 1


async def test_the_default_key_is_made_by_the_first_import(service: ImportService) -> None:
    image = await made(service, await service.import_file(DISK, disk_format="raw", key="ims/default"))
    async with service.runtime.database.reading() as c:
        key = await key_rows.get_key(c, image.key_id)
    assert key is not None
    assert key.name == "ims/default"


@pytest.mark.parametrize("state", ["disabled", "deleted", "away"])
async def test_a_key_that_is_no_good_takes_no_byte(
    service: ImportService, key_service: CountingKeys, state: str
) -> None:
    key = await new_key(service)
    reason = {"disabled": "KEY_DISABLED", "deleted": "KEY_NOT_FOUND", "away": "KEY_SERVICE_UNAVAILABLE"}
    if state == "disabled":
        await key_service.set_state(key.id, KeyState.DISABLED)
    elif state == "deleted":
        await key_service.schedule_deletion(key.id, service.runtime.clock())
    key_service.is_away = state == "away"
    with pytest.raises(ImsError) as refused:
        await service.send(DISK, key="payroll")
    assert refused.value.reason == reason[state]
    assert refused.value.field == "key"
    assert await service.left() == {}


async def test_a_key_that_there_is_not_takes_no_byte(service: ImportService) -> None:
    with pytest.raises(NotFound) as refused:
        await service.send(DISK, key="payroll")
    assert (refused.value.reason, refused.value.field) == ("KEY_NOT_FOUND", "key")
    assert await service.left() == {}


async def test_an_image_whose_key_is_disabled_can_be_listed_and_deleted_only(
    service: ImportService, key_service: CountingKeys
) -> None:
    image = await encrypted(service)
    await key_service.set_state(image.key_id, KeyState.DISABLED)
    service.runtime.data_keys.forget(image.key_id)
    with pytest.raises(FailedPrecondition) as refused:
        await content_of(service, image)
    assert refused.value.reason == "KEY_DISABLED"
    job_id = await service.images.verify(RequestKey(PROJECT, "", new_id()), image)
    assert failed(await service.end_of(job_id)) == "KEY_DISABLED"
    deletion = ImageDeletion(service.runtime, service.sweeper)
    await deletion.delete(ImageRef(PROJECT, image.id), is_final=True)
    assert await service.left() == {}
    assert await data_keys(service) == []  # what may be left of its bytes somewhere is lost


async def test_a_key_service_that_is_away_is_said_so(
    service: ImportService, key_service: CountingKeys
) -> None:
    image = await encrypted(service)
    service.runtime.data_keys.forget(image.key_id)
    key_service.is_away = True
    with pytest.raises(Unavailable) as refused:
        await content_of(service, image)
    assert refused.value.reason == "KEY_SERVICE_UNAVAILABLE"
    key_service.is_away = False
    assert await content_of(service, image) == DISK


async def test_an_upload_that_is_aborted_or_fails_leaves_no_data_key(service: ImportService) -> None:
    await new_key(service)
    upload_id = await service.send(DISK, disk_format="raw", key="payroll")
    assert len(await data_keys(service)) == 1
    await service.uploads.delete(PROJECT, upload_id)
    assert await data_keys(service) == []
    upload_id = await service.send(DISK, disk_format="raw", key="payroll")
    job_id = await service.start(upload_id=upload_id, disk_format="qcow2")
    assert failed(await service.end_of(job_id)) == "FORMAT_MISMATCH"
    # A better request makes an image of it, under the same data key.
    image = await made(service, await service.end_of(await service.start(upload_id=upload_id)))
    assert [each.image_id for each in await data_keys(service)] == [image.id]
    assert await content_of(service, image) == DISK


async def test_a_cancelled_import_leaves_nothing(world: ImportWorld) -> None:
    async with world.serving(hold_at=1) as service:
        await new_key(service)
        upload_id = await service.send(DISK, disk_format="raw", key="payroll")
        job_id = await service.start(upload_id=upload_id)
        await service.until(job_id, lambda view: view.record.phase == "guest")
        await service.jobs.cancel(PROJECT, job_id)
        assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
        assert await service.left() == {}
        assert await data_keys(service) == []


@pytest.mark.parametrize("file", ["raw", "qcow2", "qcow2.gz"])
async def test_a_job_that_was_stopped_goes_on_in_another_daemon(
    world: ImportWorld, tmp_path: Path, file: str
) -> None:
    async with world.serving(hold_at=1) as service:
        await new_key(service)
        upload_id = await service.send(FORMATS[file](tmp_path), key="payroll")
        job_id = await service.start(upload_id=upload_id)
        await service.until(job_id, lambda view: view.record.phase == "guest")
    async with world.serving() as service:
        image = await made(service, await service.end_of(job_id))
        assert await content_of(service, image) == DISK
        await require_secret(service, tmp_path, DISK)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"is_fast": True, "os_version": "Debian GNU/Linux 12.0.0 64bit"}, "FAST_IMPORT_UNSUITED"),
        ({"kind": "iso", "os_version": "Debian GNU/Linux 12.0.0 64bit"}, "IMAGE_KIND_UNSUITED"),
        ({"disk_format": "iso", "os_version": "Debian GNU/Linux 12.0.0 64bit"}, "IMAGE_KIND_UNSUITED"),
        ({"server_kind": "bare_metal"}, "ENCRYPTION_UNSUITED"),
    ],
)
async def test_what_cannot_be_encrypted_is_refused_before_a_byte(
    service: ImportService, tmp_path: Path, wanted: dict[str, Any], reason: str
) -> None:
    key = await new_key(service)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "disk").write_bytes(DISK)
    source = Source(SourceKind.LOCAL_PATH, str(tmp_path / "in" / "disk"))
    with pytest.raises(InvalidRequest) as refused:
        await service.start(source=source, key=key.id, **wanted)
    assert (refused.value.reason, refused.value.field) == (reason, "key")
    assert await data_keys(service) == []


async def test_a_fast_upload_cannot_be_encrypted(service: ImportService) -> None:
    await new_key(service)
    with pytest.raises(InvalidRequest) as refused:
        await service.send(DISK, is_fast=True, key="payroll")
    assert refused.value.reason == "FAST_IMPORT_UNSUITED"


async def test_a_file_that_proves_to_be_a_disc_is_not_encrypted(service: ImportService) -> None:
    await new_key(service)
    disc = bytearray(64 << 10)
    disc[32769:32774] = b"CD001"
    disc[32768] = 1
    with pytest.raises(FailedPrecondition) as refused:
        await service.send(bytes(disc) + DISK, key="payroll")
    assert refused.value.reason == "IMAGE_KIND_UNSUITED"


async def test_an_upload_keeps_the_key_it_was_opened_with(service: ImportService) -> None:
    await new_key(service)
    other = await new_key(service, "other")
    plain = await service.send(DISK, disk_format="raw")
    sealed = await service.send(DISK, disk_format="raw", key="payroll")
    for upload_id, said in ((plain, "without a key"), (sealed, "with another key")):
        with pytest.raises(FailedPrecondition, match=said) as refused:
            await service.start(upload_id=upload_id, key=other.name)
        assert refused.value.field == "key"
    image = await made(service, await service.end_of(await service.start(upload_id=sealed, key="payroll")))
    assert image.key_id != other.id


async def test_a_project_does_not_use_the_key_of_another(service: ImportService) -> None:
    key = await new_key(service)
    with pytest.raises(NotFound):
        await service.uploads.create(RequestKey("other", "", new_id()), NewUpload(key=key.id))


async def test_an_upload_that_expired_leaves_no_data_key(service: ImportService) -> None:
    await new_key(service)
    upload_id = await service.send(DISK, disk_format="raw", key="payroll")
    async with service.runtime.database.transaction() as c:
        late = service.runtime.clock() - timedelta(hours=1)
        await c.execute(upload.update().where(upload.c.id == upload_id).values(expires_at=late))
    await service.uploads.expire()
    assert await service.left() == {}
    assert await data_keys(service) == []


async def test_a_list_finds_encrypted_images_and_those_under_a_key(service: ImportService) -> None:
    image = await encrypted(service)
    plain = await made(service, await service.import_file(DISK, disk_format="raw"))
    for wanted, found in (
        ({"is_encrypted": True}, {image.id}),
        ({"is_encrypted": False}, {plain.id}),
        ({"exactly": (("key_id", image.key_id),)}, {image.id}),
        ({}, {image.id, plain.id}),
    ):
        async with service.runtime.database.reading() as c:
            query = ImageQuery(project_id=PROJECT, **wanted)
            listed = await image_lists.list_images(c, query, 10, None)
        assert {each.id for each in listed} == found
