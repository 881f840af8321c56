"""Bytes coming in: every way a writer can misbehave leaves no image and no leak."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, patterned_disk, random_disk
from tests.end_to_end.wire import Step

DISK = patterned_disk(6 * MIB)


def commit(upload: upload_pb2.Upload, size: int, digest: str = "") -> upload_pb2.CommitUploadRequest:
    return upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=size, digest=digest)


async def test_the_end_of_the_stream_commits_nothing(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(DISK)[:-1]])
    now = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
    assert now.state == upload_pb2.UPLOAD_STATE_OPEN
    assert now.committed_offset < len(DISK)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.start_image(stubs, upload)
    assert wire.reason_of(refused.value) == "FAILED_PRECONDITION"
    assert not await wire.images_of(stubs)


@pytest.mark.parametrize("how", ["cancel", "deadline", "channel"])
async def test_a_writer_that_goes_away_leaves_a_resumable_upload(
    daemon: DaemonProcess, stubs: Stubs, how: str
) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    half = wire.steps_of(DISK)[:3]

    async def requests() -> AsyncIterator[Step]:
        yield wire.header(upload)
        for step in half:
            yield step
        yield Step(flush=Step.Flush())
        await asyncio.sleep(60)

    channel = grpc.aio.insecure_channel(daemon.address)
    call = Stubs(channel).uploads.WriteUpload(requests(), timeout=1.5 if how == "deadline" else None)

    async def read_until_cut() -> None:
        async for answer in call:
            if answer.committed_offset == 3 * MIB and how == "cancel":
                call.cancel()
            if answer.committed_offset == 3 * MIB and how == "channel":
                await channel.close(grace=None)

    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError, grpc.aio.UsageError)):
        await read_until_cut()
    await channel.close()

    now = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
    assert now.committed_offset == 3 * MIB
    await wire.write(stubs, [wire.header(now), *wire.steps_of(DISK, 3 * MIB)])
    await stubs.uploads.CommitUpload(commit(upload, len(DISK)))
    job = await wire.ended(stubs, await wire.start_image(stubs, upload))
    assert await wire.download(stubs, job.image_ids[0]) == DISK


async def test_a_newer_writer_takes_over(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    is_open = asyncio.Event()

    async def slow() -> AsyncIterator[Step]:
        yield wire.header(upload)
        yield Step(data=DISK[:MIB])
        await asyncio.sleep(60)

    async def read_all() -> None:
        async for _ in stubs.uploads.WriteUpload(slow()):
            is_open.set()

    older = asyncio.create_task(read_all())
    await is_open.wait()
    await wire.write(stubs, [wire.header(upload, 0), *wire.steps_of(DISK)])
    with pytest.raises(grpc.aio.AioRpcError) as fenced:
        await older
    assert wire.reason_of(fenced.value) == "UPLOAD_TAKEN_OVER"
    await stubs.uploads.CommitUpload(commit(upload, len(DISK)))


async def test_a_wrong_offset_is_named(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload, 4096)])
    assert wire.reason_of(refused.value) == "UPLOAD_OFFSET_MISMATCH"


async def test_more_bytes_than_declared_are_refused(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=MIB)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload), Step(data=DISK[:MIB]), Step(data=b"x")])
    assert wire.reason_of(refused.value) == "UPLOAD_TOO_LONG"


@pytest.mark.parametrize("size", [len(DISK) - 512, len(DISK) + 512])
async def test_a_lying_size_is_refused(stubs: Stubs, size: int) -> None:
    upload = await wire.open_upload(stubs)
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(DISK)])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.uploads.CommitUpload(commit(upload, size))
    assert wire.reason_of(refused.value) in ("UPLOAD_INCOMPLETE", "UPLOAD_TOO_LONG")
    assert not await wire.images_of(stubs)


async def test_a_wrong_digest_leaves_nothing(daemon: DaemonProcess, stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(DISK)])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.uploads.CommitUpload(commit(upload, len(DISK), "b3t:" + "0" * 64))
    assert wire.reason_of(refused.value) == "DIGEST_MISMATCH"
    assert not await wire.uploads_of(stubs)
    await wire.becomes_empty(daemon)


async def test_a_wrong_sha256_fails_the_job_and_leaves_nothing(daemon: DaemonProcess, stubs: Stubs) -> None:
    upload = await wire.send(stubs, DISK, expected_sha256="0" * 64)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload))
    assert job.state == job_pb2.JOB_STATE_FAIL
    assert job.error.reason == "DIGEST_MISMATCH"
    assert not await wire.images_of(stubs)
    assert not await wire.uploads_of(stubs)
    await wire.becomes_empty(daemon)


async def test_a_right_sha256_is_accepted(stubs: Stubs) -> None:
    upload = await wire.send(stubs, DISK, expected_sha256=hashlib.sha256(DISK).hexdigest())
    job = await wire.ended(stubs, await wire.start_image(stubs, upload))
    assert job.state == job_pb2.JOB_STATE_SUCCESS


async def test_an_aborted_upload_frees_its_bytes(daemon: DaemonProcess, stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(DISK)])
    assert daemon.blobs()
    await stubs.uploads.DeleteUpload(upload_pb2.DeleteUploadRequest(upload_id=upload.id))
    await wire.becomes_empty(daemon)
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
    assert wire.reason_of(gone.value) == "NOT_FOUND"


async def test_an_upload_of_unknown_size_is_whole(stubs: Stubs) -> None:
    upload = await wire.send(stubs, DISK, size_bytes=0)
    assert upload.size_bytes == len(DISK)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload))
    assert await wire.download(stubs, job.image_ids[0]) == DISK


async def test_an_empty_file_is_refused(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.uploads.CommitUpload(commit(upload, 0))
    assert wire.reason_of(refused.value) == "IMAGE_EMPTY"


@pytest.mark.parametrize(
    "step",
    [Step(), Step(data=b""), Step(zero_length=0), Step(zero_length=-1)],
)
async def test_a_malformed_message_is_refused(stubs: Stubs, step: Step) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload), step])
    assert wire.reason_of(refused.value) == "INVALID_REQUEST"


async def test_a_stream_without_header_is_refused(stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [Step(data=b"x")])
    assert wire.reason_of(refused.value) == "INVALID_REQUEST"


async def test_a_digest_is_no_way_into_another_project(stubs: Stubs) -> None:
    upload = await wire.send(stubs, DISK, project_id="owner")
    with pytest.raises(grpc.aio.AioRpcError) as unseen:
        await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(project_id="other", upload_id=upload.id))
    assert wire.reason_of(unseen.value) == "NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.images.CreateImage(
            image_pb2.CreateImageRequest(project_id="other", name="stolen", upload_id=upload.id)
        )
    assert wire.reason_of(refused.value) == "NOT_FOUND"


async def test_a_repeated_request_gets_the_first_answer(stubs: Stubs) -> None:
    first = await wire.open_upload(stubs, size_bytes=MIB, request_id="r1")
    again = await wire.open_upload(stubs, size_bytes=MIB, request_id="r1")
    assert again.id == first.id
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await wire.open_upload(stubs, size_bytes=2 * MIB, request_id="r1")
    assert wire.reason_of(reused.value) == "REQUEST_ID_REUSED"


async def test_a_repeated_request_for_an_upload_that_is_gone_says_so_and_gets_its_job(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=len(DISK), request_id="r1")
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(DISK), Step(flush=Step.Flush())])
    await stubs.uploads.CommitUpload(commit(upload, len(DISK)))
    asked = image_pb2.CreateImageRequest(name="web", upload_id=upload.id, request_id="r2")
    job = await stubs.images.CreateImage(asked)
    await wire.ended(stubs, job)
    again = await wire.open_upload(stubs, size_bytes=len(DISK), request_id="r1")
    assert again == upload_pb2.Upload(id=upload.id, project_id="default", state=upload_pb2.UPLOAD_STATE_GONE)
    replayed = await stubs.images.CreateImage(asked)
    assert (replayed.id, replayed.state) == (job.id, job_pb2.JOB_STATE_SUCCESS)
    assert len(await wire.images_of(stubs)) == 1
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await wire.open_upload(stubs, size_bytes=1, request_id="r1")
    assert wire.reason_of(reused.value) == "REQUEST_ID_REUSED"


async def test_a_repeated_request_for_an_aborted_upload_says_that_it_is_gone(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, request_id="r1")
    await stubs.uploads.DeleteUpload(upload_pb2.DeleteUploadRequest(upload_id=upload.id))
    again = await wire.open_upload(stubs, request_id="r1")
    assert (again.id, again.state) == (upload.id, upload_pb2.UPLOAD_STATE_GONE)
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stubs.images.CreateImage(
            image_pb2.CreateImageRequest(name="web", upload_id=upload.id, request_id="r2")
        )
    assert wire.reason_of(missing.value) == "NOT_FOUND"


async def test_uploads_beyond_the_quota_are_refused(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon(staging_quota_bytes=4 * MIB, upload_part_bytes=MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs, disk_format=image_pb2.DISK_FORMAT_QCOW2)
        begin = b"QFI\xfb\x00\x00\x00\x03"
        pieces = [Step(data=begin + random_disk(MIB - len(begin), seed)) for seed in range(5)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await wire.write(stubs, [wire.header(upload), *pieces])
        assert wire.reason_of(refused.value) == "QUOTA_EXCEEDED"


async def test_an_expired_upload_is_refused_and_removed(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon(upload_expiry_hours=1 / 3600, sweep_interval_seconds=3)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs)
        await wire.write(stubs, [wire.header(upload), *wire.steps_of(DISK)])
        await asyncio.sleep(1.1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await wire.write(stubs, [wire.header(upload, len(DISK))])
        assert wire.reason_of(refused.value) in ("UPLOAD_EXPIRED", "NOT_FOUND")
        await wire.becomes_empty(daemon)
        assert not await wire.uploads_of(stubs)


@pytest.mark.parametrize("declared", [image_pb2.DISK_FORMAT_QCOW2, image_pb2.DISK_FORMAT_ISO])
async def test_a_wrong_declaration_is_refused_at_the_first_bytes(stubs: Stubs, declared: int) -> None:
    upload = await wire.open_upload(stubs, disk_format=declared)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload), Step(data=random_disk(MIB))])
    assert wire.reason_of(refused.value) == "FORMAT_MISMATCH"


async def test_a_file_that_starts_as_two_formats_is_refused_at_its_first_bytes(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs)
    disc = b"vhdxfile".ljust(32768, b"\0") + b"\x01CD001\x01".ljust(2048, b"\0") + random_disk(MIB // 2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload), Step(data=disc)])
    assert wire.reason_of(refused.value) == "FORMAT_AMBIGUOUS"
    for _ in range(100):
        if not await wire.uploads_of(stubs):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the refused upload is still there")
