"""The wire contract, spoken directly: what a client in any language would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ims_client.call_ending import CallEnding

from imsd.v1 import image_pb2, job_pb2, upload_pb2
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

MESSAGE = 1 << 20

FINAL = (job_pb2.JOB_STATE_SUCCESS, job_pb2.JOB_STATE_FAIL, job_pb2.JOB_STATE_CANCELLED)

Step = upload_pb2.WriteUploadRequest


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in the ErrorInfo of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "imsd"
    return str(info.reason)


def header(upload: upload_pb2.Upload, offset: int | None = None) -> Step:
    at = upload.committed_offset if offset is None else offset
    return Step(header=Step.Header(project_id=upload.project_id, upload_id=upload.id, offset=at))


def steps_of(content: bytes, start: int = 0) -> list[Step]:
    """The messages for ``content`` from ``start``: runs of zeros as lengths, then a flush."""
    steps = []
    for offset in range(start, len(content), MESSAGE):
        piece = content[offset : offset + MESSAGE]
        steps.append(Step(data=piece) if any(piece) else Step(zero_length=len(piece)))
    return [*steps, Step(flush=Step.Flush())]


async def write(stubs: Stubs, steps: Iterable[Step]) -> list[upload_pb2.WriteUploadResponse]:
    """One whole stream; returns every answer. Raises what the daemon ended it with."""

    async def requests() -> AsyncIterator[Step]:
        for step in steps:
            yield step

    call = stubs.uploads.WriteUpload(requests())
    ending = CallEnding(call)
    try:
        return [answer async for answer in call]
    except grpc.aio.AioRpcError as error:
        raise await ending.status(error) from None


async def open_upload(stubs: Stubs, **fields: Any) -> upload_pb2.Upload:
    upload: upload_pb2.Upload = await stubs.uploads.CreateUpload(upload_pb2.CreateUploadRequest(**fields))
    return upload


async def send(stubs: Stubs, content: bytes, **fields: Any) -> upload_pb2.Upload:
    """Upload ``content`` whole and commit it."""
    upload = await open_upload(stubs, **({"size_bytes": len(content)} | fields))
    await write(stubs, [header(upload), *steps_of(content)])
    return await commit(stubs, upload, len(content))


async def commit(stubs: Stubs, upload: upload_pb2.Upload, size_bytes: int) -> upload_pb2.Upload:
    request = upload_pb2.CommitUploadRequest(
        project_id=upload.project_id, upload_id=upload.id, size_bytes=size_bytes
    )
    committed: upload_pb2.Upload = await stubs.uploads.CommitUpload(request)
    return committed


async def start_image(stubs: Stubs, upload: upload_pb2.Upload, **fields: Any) -> job_pb2.Job:
    named = {"name": "disk", "project_id": upload.project_id} | fields
    request = image_pb2.CreateImageRequest(**named, upload_id=upload.id)
    job: job_pb2.Job = await stubs.images.CreateImage(request)
    return job


async def ended(stubs: Stubs, job: job_pb2.Job) -> job_pb2.Job:
    """Watch a job to its end."""
    request = job_pb2.WatchJobRequest(project_id=job.project_id, job_id=job.id)
    states: list[job_pb2.Job] = [now async for now in stubs.jobs.WatchJob(request)]
    assert states[-1].state in FINAL
    return states[-1]


async def import_disk(stubs: Stubs, content: bytes, project_id: str = "", **fields: Any) -> image_pb2.Image:
    """An ACTIVE image of ``content``."""
    upload = await send(stubs, content, project_id=project_id)
    job = await ended(stubs, await start_image(stubs, upload, **fields))
    assert job.state == job_pb2.JOB_STATE_SUCCESS, job
    request = image_pb2.GetImageRequest(project_id=project_id, image_id=job.image_ids[0])
    image: image_pb2.Image = await stubs.images.GetImage(request)
    return image


async def download(stubs: Stubs, image_id: str, **fields: Any) -> bytes:
    """The whole file; asserts that it is complete and, if that was announced, as long as announced."""
    content = bytearray()
    announced = complete = -1
    request = image_pb2.DownloadImageRequest(image_id=image_id, **fields)
    async for message in stubs.images.DownloadImage(request):
        step = message.WhichOneof("step")
        if step == "header":
            announced = message.header.file_size_bytes
        elif step == "data":
            content += message.data
        elif step == "zero_length":
            content += bytes(message.zero_length)
        else:
            complete = message.complete.file_size_bytes
    assert len(content) == (announced or complete) == complete
    return bytes(content)


async def images_of(stubs: Stubs) -> Sequence[image_pb2.Image]:
    return list((await stubs.images.ListImages(image_pb2.ListImagesRequest())).images)


async def uploads_of(stubs: Stubs) -> Sequence[upload_pb2.Upload]:
    return list((await stubs.uploads.ListUploads(upload_pb2.ListUploadsRequest())).uploads)


async def becomes_empty(daemon: DaemonProcess, prefix: str = "", seconds: float = 10.0) -> None:
    """Wait until the store holds no blob whose path begins with ``prefix``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while blobs := daemon.blobs(prefix):
        assert asyncio.get_running_loop().time() < deadline, f"left in the store: {blobs}"
        await asyncio.sleep(0.05)


async def leaves_nothing(daemon: DaemonProcess, seconds: float = 30.0) -> None:
    """Wait until nothing is left of images and uploads: a sweep forgets rows after it deleted their bytes."""
    deadline = asyncio.get_running_loop().time() + seconds
    while left := daemon.blobs() or daemon.rows():
        assert asyncio.get_running_loop().time() < deadline, f"left: {left}"
        await asyncio.sleep(0.05)
