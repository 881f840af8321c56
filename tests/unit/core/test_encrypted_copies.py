"""Copies under keys and without, exports of encrypted images, and what the rules forbid with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from imsd.chunks.ingest import DiskIngest
from imsd.chunks.ingest_state import IngestResult
from imsd.contract import ByteRange, FailedPrecondition, ImsError, KeyState, NotFound, blob_id
from imsd.core.export_rules import ExportPolicy, require_exportable
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import ImageDeletion
from imsd.core.image_exports import NewExport
from imsd.core.image_refusals import Asked, refusals
from imsd.core.image_states import require_publishable, require_visible
from imsd.core.requests import RequestKey
from imsd.core.share_rules import require_shareable
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, JobState, Visibility
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.copy_world import content_of, copied, record_of, started, verified
from tests.unit.core.core_world import buckets_of, new_id
from tests.unit.core.encrypted_world import DISK, as_format, blobs_of, data_keys, marks, new_key
from tests.unit.core.import_world import PROJECT, SECOND, ImportService, ImportWorld, failed
from tests.unit.core.key_world import Clock, CountingKeys


@pytest.fixture
def key_service() -> CountingKeys:
    return CountingKeys(Clock())


@pytest.fixture
def bucket() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def service(
    database: Database, key_service: CountingKeys, bucket: MemoryStore
) -> AsyncIterator[ImportService]:
    world = ImportWorld(database, buckets=buckets_of(main=bucket), key_service=key_service)
    async with world.serving() as service:
        await new_key(service)
        await new_key(service, "other")
        yield service


async def imported(service: ImportService, key: str = "") -> ImageRecord:
    view = await service.import_file(DISK, disk_format="raw", key=key)
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


@pytest.mark.parametrize(
    ("before", "after"), [("", "payroll"), ("payroll", ""), ("payroll", "other"), ("other", "ims/default")]
)
async def test_a_copy_is_encrypted_as_it_is_asked_for(
    service: ImportService, before: str, after: str
) -> None:
    image = await imported(service, before)
    copy = await record_of(service, await copied(service, image.id, key=after))
    assert bool(copy.key_id) is bool(after)
    assert copy.key_id != image.key_id
    assert copy.digest != image.digest
    assert await content_of(service, copy) == DISK
    await verified(service, copy)
    # Neither needs the other.
    await ImageDeletion(service.runtime, service.sweeper).delete(ImageRef(PROJECT, image.id), is_final=True)
    await service.left()
    assert await content_of(service, copy) == DISK
    assert [each.image_id for each in await data_keys(service)] == ([copy.id] if after else [])


async def test_an_encrypted_copy_leaves_nothing_plain(service: ImportService) -> None:
    image = await imported(service)
    copy = await record_of(service, await copied(service, image.id, key="payroll", store=SECOND))
    kept = b"\0".join(await blobs_of(service.runtime.stores.get(SECOND)))
    assert copy.store == SECOND
    assert [mark for mark in marks(DISK) if mark in kept] == []


async def test_a_fast_import_can_be_copied_under_a_key(service: ImportService) -> None:
    view = await service.end_of(
        await service.start(
            upload_id=await service.send(DISK, disk_format="raw", is_fast=True),
            is_fast=True,
            kind="data_disk",
        )
    )
    image = await service.image(view.record.image_id)
    assert image.is_fast_imported
    copy = await record_of(service, await copied(service, image.id, key="payroll"))
    assert (copy.is_fast_imported, bool(copy.key_id)) == (False, True)
    assert await content_of(service, copy) == DISK


async def test_the_key_of_an_image_is_not_that_of_its_copy(service: ImportService) -> None:
    image = await imported(service, "payroll")
    for named in ("payroll", image.key_id):
        with pytest.raises(FailedPrecondition) as refused:
            await started(service, image.id, key=named)
        assert (refused.value.reason, refused.value.field) == ("KEY_UNCHANGED", "key")
    assert len(await data_keys(service)) == 1


async def test_a_copy_says_which_of_two_keys_is_no_good(
    service: ImportService, key_service: CountingKeys
) -> None:
    image = await imported(service, "payroll")
    with pytest.raises(NotFound) as unknown:
        await started(service, image.id, key="nobody")
    assert (unknown.value.reason, unknown.value.field) == ("KEY_NOT_FOUND", "key")
    await key_service.set_state(image.key_id, KeyState.DISABLED)
    service.runtime.data_keys.forget(image.key_id)
    with pytest.raises(FailedPrecondition) as refused:
        await started(service, image.id, key="other")
    assert (refused.value.reason, refused.value.field) == ("KEY_DISABLED", "image_id")


async def test_a_copy_whose_key_is_disabled_meanwhile_fails_and_leaves_nothing(
    service: ImportService, key_service: CountingKeys
) -> None:
    image = await imported(service, "payroll")
    before = await service.left()
    # Before the job begins, which the next line only starts.
    job_id = await started(service, image.id, key="other")
    await key_service.set_state(image.key_id, KeyState.DISABLED)
    service.runtime.data_keys.forget(image.key_id)
    view = await service.end_of(job_id)
    if view.record.state is JobState.FAIL:  # it may have been quicker
        assert failed(view) == "KEY_DISABLED"
        assert await service.left() == before
        assert len(await data_keys(service)) == 1


@pytest.fixture
def disabling(
    service: ImportService, key_service: CountingKeys, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[None]]:
    """In its block all keys are disabled when the last byte of a disk was read."""
    finish = DiskIngest.finish

    async def disabled_then(ingest: DiskIngest, size_bytes: int) -> IngestResult:
        for data_key in await data_keys(service):
            await key_service.set_state(data_key.key_id, KeyState.DISABLED)
            service.runtime.data_keys.forget(data_key.key_id)
        return await finish(ingest, size_bytes)

    @contextmanager
    def patched() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(DiskIngest, "finish", disabled_then)
            yield

    return patched


async def enable_all(service: ImportService, key_service: CountingKeys) -> None:
    for data_key in await data_keys(service):
        await key_service.set_state(data_key.key_id, KeyState.ENABLED)


@pytest.mark.parametrize("key", ["", "other"])
async def test_a_copy_that_was_begun_ends_though_its_keys_are_disabled_meanwhile(
    service: ImportService,
    key_service: CountingKeys,
    disabling: Callable[[], AbstractContextManager[None]],
    key: str,
) -> None:
    image = await imported(service, "payroll")
    with disabling():
        copy = await record_of(service, await copied(service, image.id, key=key))
    await enable_all(service, key_service)
    assert await content_of(service, copy) == DISK


async def test_an_import_that_was_begun_ends_though_its_key_is_disabled_meanwhile(
    service: ImportService,
    key_service: CountingKeys,
    disabling: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    file = as_format("vhdx", tmp_path)
    with disabling():
        view = await service.import_file(file, disk_format="vhdx", key="payroll")
    assert view.record.state is JobState.SUCCESS, view
    await enable_all(service, key_service)
    assert await content_of(service, await service.image(view.record.image_id)) == DISK


async def test_an_export_decrypts(service: ImportService, bucket: MemoryStore) -> None:
    image = await imported(service, "payroll")
    new = NewExport(image_id=image.id, target="main:disk.qcow2", disk_format="qcow2")
    view = await service.end_of(await service.exports.start(RequestKey(PROJECT, "", new_id()), new))
    assert view.record.state is JobState.SUCCESS, view
    name = blob_id("disk.qcow2")
    size = (await bucket.stat(name)).size_bytes
    file = bytes((await bucket.read(name, [ByteRange(0, size)]))[0])
    blocks = open_image(MemorySource(file), None, 1 << 40).blocks
    content = bytearray(blocks.size_bytes)
    blocks.read_into(0, memoryview(content))
    assert bytes(content) == DISK


async def test_an_export_whose_key_is_no_good_is_refused_at_once(
    service: ImportService, key_service: CountingKeys
) -> None:
    image = await imported(service, "payroll")
    await key_service.schedule_deletion(image.key_id, service.runtime.clock())
    service.runtime.data_keys.forget(image.key_id)
    new = NewExport(image_id=image.id, target="main:disk.qcow2", disk_format="qcow2")
    with pytest.raises(NotFound) as refused:
        await service.exports.start(RequestKey(PROJECT, "", new_id()), new)
    assert (refused.value.reason, refused.value.field) == ("KEY_NOT_FOUND", "image_id")


async def test_what_the_rules_forbid_with_encrypted_images(service: ImportService) -> None:
    image = await imported(service, "payroll")
    policy = ExportPolicy(service.runtime.limits, ())
    refused: list[ImsError] = []
    rules: list[Callable[[], None]] = [
        lambda: require_exportable(PROJECT, image, "zvhd2", policy),
        lambda: require_shareable(PROJECT, image),
        lambda: require_visible(image, Visibility.PUBLIC),
        lambda: require_publishable(image),
    ]
    for rule in rules:
        with pytest.raises(FailedPrecondition) as error:
            rule()
        refused.append(error.value)
    assert {each.reason for each in refused} == {"ENCRYPTED_IMAGE_UNSUITED"}
    assert all("is encrypted" in each.message for each in refused)
    require_exportable(PROJECT, image, "qcow2", policy)
    asked = Asked(project_id=PROJECT, image=image, has_job=False, exports=policy)
    assert list(refusals("ims:images:export", asked)) == []
    assert len(list(refusals("ims:images:share", asked))) == 1
