"""Images over the wire: lists, updates, deletions, and every way to ask wrongly."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import random_disk

ACTIVE = image_pb2.IMAGE_STATUS_ACTIVE
NIL = "00000000-0000-4000-8000-000000000000"


async def listed(stubs: Stubs, **fields: Any) -> list[str]:
    answer = await stubs.images.ListImages(image_pb2.ListImagesRequest(**fields))
    return [image.name for image in answer.images]


async def reason_when(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return wire.reason_of(refused.value)


def update(image: image_pb2.Image, *paths: str, **fields: Any) -> image_pb2.UpdateImageRequest:
    return image_pb2.UpdateImageRequest(
        image_id=image.id, image=image_pb2.Image(**fields), update_mask=FieldMask(paths=paths)
    )


async def test_lists_filter_sort_and_page(stubs: Stubs) -> None:
    for number, name in enumerate(("web-b", "db", "web-a")):
        await wire.import_disk(
            stubs, random_disk(1024 * (number + 1)), name=name, tags={"tier": name[:2], "n": str(number)}
        )
    assert await listed(stubs) == ["web-a", "db", "web-b"]
    assert await listed(stubs, order_by="name") == ["db", "web-a", "web-b"]
    assert await listed(stubs, order_by="virtual_size desc") == ["web-a", "db", "web-b"]
    assert await listed(stubs, filter={"name": "web-*"}, order_by="name") == ["web-a", "web-b"]
    assert await listed(stubs, filter={"tags": {"tier": "we", "n": "0"}}) == ["web-b"]
    assert await listed(stubs, filter={"tags": {"n": ""}}, order_by="name") == ["db", "web-a", "web-b"]
    assert await listed(stubs, filter={"statuses": [image_pb2.IMAGE_STATUS_QUEUED]}) == []
    assert await listed(stubs, filter={"disk_formats": [image_pb2.DISK_FORMAT_QCOW2]}) == []
    assert await listed(stubs, project_id="other") == []

    seen, token = [], ""
    while True:
        page = await stubs.images.ListImages(
            image_pb2.ListImagesRequest(page_size=1, page_token=token, order_by="name")
        )
        seen += [image.name for image in page.images]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["db", "web-a", "web-b"]


async def test_a_page_token_is_good_for_its_own_query(stubs: Stubs) -> None:
    for name in ("one", "two"):
        await wire.import_disk(stubs, random_disk(512), name=name)
    page = await stubs.images.ListImages(image_pb2.ListImagesRequest(page_size=1))
    other = image_pb2.ListImagesRequest(page_size=1, page_token=page.next_page_token, order_by="name")
    assert await reason_when(stubs.images.ListImages(other)) == "INVALID_PAGE_TOKEN"


async def test_an_image_is_found_by_id_prefix_and_name(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(512), name="only")
    for text in (image.id, image.id[:8], "only"):
        found = await stubs.images.ResolveImage(image_pb2.ResolveImageRequest(name_or_id=text))
        assert found.id == image.id
    await wire.import_disk(stubs, random_disk(512), name="only")
    resolve = image_pb2.ResolveImageRequest
    assert await reason_when(stubs.images.ResolveImage(resolve(name_or_id="only"))) == "AMBIGUOUS_NAME"
    assert await reason_when(stubs.images.ResolveImage(resolve(name_or_id="none"))) == "NOT_FOUND"
    assert await reason_when(stubs.images.ResolveImage(resolve())) == "INVALID_REQUEST"


async def test_an_update_changes_what_its_mask_names(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(512), properties={"a": "1", "b": "2"})
    changed = await stubs.images.UpdateImage(
        update(
            image,
            "name",
            "min_ram_mb",
            "properties.a",
            "properties.c",
            name="new",
            min_ram_mb=512,
            description="ignored",
            properties={"c": "3"},
        )
    )
    assert (changed.name, changed.min_ram_mb, changed.description) == ("new", 512, "")
    assert dict(changed.properties) == {"b": "2", "c": "3"}
    assert changed.etag != image.etag


@pytest.mark.parametrize(
    ("paths", "fields", "reason"),
    [
        ((), {}, "INVALID_REQUEST"),
        (("name",), {"name": ""}, "IMAGE_NAME_MISSING"),
        (("name",), {"name": "a/b"}, "IMAGE_NAME_INVALID"),
        (("description",), {"description": "<b>"}, "DESCRIPTION_INVALID"),
        (("min_ram_mb", "max_ram_mb"), {"min_ram_mb": 2, "max_ram_mb": 1}, "INVALID_REQUEST"),
        (("min_disk_gb",), {"min_disk_gb": -1}, "INVALID_REQUEST"),
        (("tags",), {"tags": {"a b": "c"}}, "INVALID_REQUEST"),
        (("properties",), {"properties": {"": "c"}}, "INVALID_REQUEST"),
        (("properties.a b",), {"properties": {"a b": "c"}}, "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_update_is_refused(
    stubs: Stubs, paths: tuple[str, ...], fields: dict[str, Any], reason: str
) -> None:
    image = await wire.import_disk(stubs, random_disk(512))
    assert await reason_when(stubs.images.UpdateImage(update(image, *paths, **fields))) == reason
    same = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=image.id))
    assert same == image


@pytest.mark.parametrize("path", ["digest", "id", "kind", "os_type", "guest.name", "deprecation"])
async def test_what_never_changes_is_refused_by_its_name(stubs: Stubs, path: str) -> None:
    image = await wire.import_disk(stubs, random_disk(512))
    assert await reason_when(stubs.images.UpdateImage(update(image, path))) == "FIELD_NOT_UPDATABLE"


async def test_an_etag_guards_updates_and_deletion(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(512))
    await stubs.images.UpdateImage(update(image, "name", name="newer"))
    late = update(image, "name", name="late")
    late.etag = image.etag
    assert await reason_when(stubs.images.UpdateImage(late)) == "CONFLICT"
    delete = image_pb2.DeleteImageRequest(image_id=image.id, etag=image.etag)
    assert await reason_when(stubs.images.DeleteImage(delete)) == "CONFLICT"


async def test_a_protected_image_cannot_be_deleted(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(512))
    await stubs.images.UpdateImage(update(image, "is_protected", is_protected=True))
    delete = image_pb2.DeleteImageRequest(image_id=image.id)
    assert await reason_when(stubs.images.DeleteImage(delete)) == "IMAGE_PROTECTED"
    await stubs.images.UpdateImage(update(image, "is_protected"))
    await stubs.images.DeleteImage(delete)
    assert await reason_when(stubs.images.DeleteImage(delete)) == "NOT_FOUND"


async def test_min_disk_is_at_least_the_disk(stubs: Stubs) -> None:
    upload = await wire.send(stubs, random_disk(512), disk_format=image_pb2.DISK_FORMAT_RAW)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload, min_disk_gb=7))
    image = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=job.image_ids[0]))
    assert image.min_disk_gb == 7


async def test_a_wrong_declaration_fails_the_job_and_keeps_the_upload(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    upload = await wire.send(stubs, random_disk(4096))
    request = {"disk_format": image_pb2.DISK_FORMAT_QCOW2}
    job = await wire.ended(stubs, await wire.start_image(stubs, upload, **request))
    assert job.state == job_pb2.JOB_STATE_FAIL
    assert job.error.reason == "FORMAT_MISMATCH"
    assert job.error.hint
    job = await wire.ended(stubs, await wire.start_image(stubs, upload))
    assert job.state == job_pb2.JOB_STATE_SUCCESS
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=job.image_ids[0], is_final=True))
    await wire.becomes_empty(daemon)


@pytest.mark.parametrize("image_id", ["", "x", "../../etc/passwd", "A" * 4096])
async def test_what_is_no_id_is_refused(stubs: Stubs, image_id: str) -> None:
    get = stubs.images.GetImage(image_pb2.GetImageRequest(image_id=image_id))
    assert await reason_when(get) == "INVALID_REQUEST"


async def test_what_does_not_exist_is_not_found(stubs: Stubs) -> None:
    assert await reason_when(stubs.images.GetImage(image_pb2.GetImageRequest(image_id=NIL))) == "NOT_FOUND"
    assert await reason_when(stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=NIL))) == "NOT_FOUND"
    assert await reason_when(stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=NIL))) == "NOT_FOUND"
    create = image_pb2.CreateImageRequest(name="x", upload_id=NIL)
    assert await reason_when(stubs.images.CreateImage(create)) == "NOT_FOUND"
    verify = image_pb2.VerifyImageRequest(image_id=NIL)
    assert await reason_when(stubs.images.VerifyImage(verify)) == "NOT_FOUND"


async def test_a_format_that_cannot_be_written_is_refused(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(512))
    for fields, reason in (
        ({"disk_format": image_pb2.DISK_FORMAT_QED}, "FORMAT_UNSUPPORTED"),
        ({"compression": image_pb2.COMPRESSION_ZSTD}, "INVALID_REQUEST"),
        ({"disk_format": 99}, "INVALID_REQUEST"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await wire.download(stubs, image.id, **fields)
        assert wire.reason_of(refused.value) == reason


async def test_a_repeated_create_gets_the_first_job(stubs: Stubs) -> None:
    upload = await wire.send(stubs, random_disk(4096))
    first = await wire.start_image(stubs, upload, request_id="once")
    again = await wire.start_image(stubs, upload, request_id="once")
    assert again.id == first.id
    await wire.ended(stubs, first)
    third = await wire.start_image(stubs, upload, request_id="once")
    assert third.id == first.id
    assert len(await wire.images_of(stubs)) == 1
    assert (
        await reason_when(wire.start_image(stubs, upload, request_id="once", name="different"))
        == "REQUEST_ID_REUSED"
    )


async def test_a_repeated_verification_is_answered_when_the_image_is_gone(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(512))
    verify = image_pb2.VerifyImageRequest(image_id=image.id, request_id="once")
    first = await wire.ended(stubs, await stubs.images.VerifyImage(verify))
    assert first.progress.bytes_done == first.progress.bytes_total == image.data_size_bytes > 0
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=image.id))
    assert (await stubs.images.VerifyImage(verify)).id == first.id
    verify.request_id = "again"
    assert await reason_when(stubs.images.VerifyImage(verify)) == "NOT_FOUND"
