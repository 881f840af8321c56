"""The services of the fake daemon, in memory. See `fake_daemon`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.rpc import code_pb2

from imsd.v1 import (
    guest_pb2,
    image_pb2,
    image_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    upload_pb2,
    upload_pb2_grpc,
)
from tests.unit.clients.fake_catalog import GUEST
from tests.unit.clients.fake_state import (
    NOON,
    PART_BYTES,
    PIECE_BYTES,
    FakeUpload,
    Refusal,
    State,
    digest_of,
    new_job,
    not_found,
)


class Uploads(upload_pb2_grpc.UploadServiceServicer):
    def __init__(self, state: State) -> None:
        self._state = state

    async def CreateUpload(self, request: upload_pb2.CreateUploadRequest, _: Any) -> upload_pb2.Upload:
        self._state.projects.add(request.project_id)
        if known := self._state.replay(request.request_id, request):
            if known not in self._state.uploads:
                return upload_pb2.Upload(id=known, project_id="default", state=upload_pb2.UPLOAD_STATE_GONE)
            return self._find(known).message
        upload = upload_pb2.Upload(
            id=str(uuid.uuid4()),
            project_id=request.project_id or "default",
            state=upload_pb2.UPLOAD_STATE_OPEN,
            file_name=request.file_name,
            size_bytes=request.size_bytes,
            disk_format=request.disk_format,
            part_size_bytes=PART_BYTES,
            expected_sha256=request.expected_sha256,
            fingerprint=request.fingerprint,
            is_encrypted=bool(request.key),
            created_at=NOON,
            expires_at=NOON,
        )
        self._state.uploads[upload.id] = FakeUpload(upload)
        self._state.remember(request.request_id, request, upload.id)
        return upload

    async def GetUpload(self, request: upload_pb2.GetUploadRequest, _: Any) -> upload_pb2.Upload:
        return self._find(request.upload_id).message

    async def ListUploads(self, request: Any, _: Any) -> upload_pb2.ListUploadsResponse:
        found = [
            upload.message
            for upload in self._state.uploads.values()
            if request.fingerprint in ("", upload.message.fingerprint)
        ]
        return upload_pb2.ListUploadsResponse(uploads=reversed(found))

    async def WriteUpload(
        self, requests: AsyncIterator[upload_pb2.WriteUploadRequest], context: Any
    ) -> AsyncIterator[upload_pb2.WriteUploadResponse]:
        header = (await anext(requests)).header
        upload = self._find(header.upload_id)
        upload.fence += 1
        fence = upload.fence
        committed = upload.message.committed_offset
        if header.offset != committed:
            raise Refusal(code_pb2.ABORTED, "UPLOAD_OFFSET_MISMATCH", f"the upload goes on at {committed}")
        del upload.content[committed:]  # what was not durable is dropped
        yield upload_pb2.WriteUploadResponse(committed_offset=committed)
        async for request in requests:
            if upload.fence != fence:
                raise Refusal(code_pb2.ABORTED, "UPLOAD_TAKEN_OVER", "a newer writer took over")
            is_flush = self._take(upload, request)
            if self._state.drop_at and len(upload.content) >= self._state.drop_at[0]:
                self._state.drop_at.pop(0)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            if is_flush or len(upload.content) - upload.message.committed_offset >= PART_BYTES:
                upload.message.committed_offset = len(upload.content)
                yield upload_pb2.WriteUploadResponse(committed_offset=len(upload.content))

    def _take(self, upload: FakeUpload, request: upload_pb2.WriteUploadRequest) -> bool:
        step = request.WhichOneof("step")
        if step == "data":
            self._state.messages.append(("data", len(request.data)))
            upload.content += request.data
        elif step == "zero_length":
            self._state.messages.append(("zero", request.zero_length))
            upload.content += bytes(request.zero_length)
        size = upload.message.size_bytes
        if size and len(upload.content) > size:
            raise Refusal(code_pb2.INVALID_ARGUMENT, "UPLOAD_TOO_LONG", "more bytes than declared")
        return step == "flush"

    async def FindUploadChunks(self, request: Any, context: Any) -> upload_pb2.FindUploadChunksResponse:
        self._state.asked_chunks += [chunk.digest for chunk in request.chunks]
        return upload_pb2.FindUploadChunksResponse(known=[True] * len(request.chunks))

    async def CommitUpload(self, request: upload_pb2.CommitUploadRequest, _: Any) -> upload_pb2.Upload:
        upload = self._find(request.upload_id)
        if upload.message.state == upload_pb2.UPLOAD_STATE_COMMITTED:
            return upload.message
        if request.size_bytes != upload.message.committed_offset:
            raise Refusal(code_pb2.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE", "bytes are missing")
        if not upload.content:
            raise Refusal(code_pb2.INVALID_ARGUMENT, "IMAGE_EMPTY", "the upload is empty")
        digest = digest_of(bytes(upload.content))
        if request.digest and request.digest != digest:
            del self._state.uploads[request.upload_id]
            raise Refusal(code_pb2.INVALID_ARGUMENT, "DIGEST_MISMATCH", "the bytes have another digest")
        upload.message.digest = digest
        upload.message.size_bytes = len(upload.content)
        upload.message.state = upload_pb2.UPLOAD_STATE_COMMITTED
        return upload.message

    async def DeleteUpload(self, request: Any, _: Any) -> upload_pb2.DeleteUploadResponse:
        del self._state.uploads[self._find(request.upload_id).message.id]
        return upload_pb2.DeleteUploadResponse()

    def _find(self, upload_id: str) -> FakeUpload:
        if upload_id not in self._state.uploads:
            raise not_found(f"upload {upload_id}")
        return self._state.uploads[upload_id]


class Images(image_pb2_grpc.ImageServiceServicer):
    def __init__(self, state: State, start: Callable[[job_pb2.Job], None]) -> None:
        self._state = state
        self._start = start

    async def CreateImage(self, request: image_pb2.CreateImageRequest, _: Any) -> job_pb2.Job:
        if known := self._state.replay(request.request_id, request):
            return self._state.jobs[known]
        if "<" in request.name:
            raise Refusal(code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST", "that is no name", field="name")
        upload = self._state.uploads.get(request.upload_id)
        if upload is None:
            raise not_found("upload")
        if request.validate_only:
            return job_pb2.Job()
        if upload.job_id or upload.message.state != upload_pb2.UPLOAD_STATE_COMMITTED:
            raise Refusal(code_pb2.FAILED_PRECONDITION, "FAILED_PRECONDITION", "the upload is in use")
        image = image_pb2.Image(
            id=str(uuid.uuid4()),
            project_id="default",
            region="local",
            name=request.name,
            description=request.description,
            status=image_pb2.IMAGE_STATUS_QUEUED,
            disk_format=request.disk_format or image_pb2.DISK_FORMAT_RAW,
            min_disk_gb=request.min_disk_gb or 1,
            min_ram_mb=request.min_ram_mb,
            max_ram_mb=request.max_ram_mb,
            os_version=request.os_version,
            tags=request.tags,
            properties=request.properties,
            store="main",
            etag="1",
            created_at=NOON,
            updated_at=NOON,
        )
        job = new_job(job_pb2.JOB_KIND_CREATE_IMAGE, image.id)
        job.upload_ids.append(request.upload_id)
        image.job_id = upload.job_id = job.id
        self._state.images[image.id] = image
        self._state.jobs[job.id] = job
        self._state.remember(request.request_id, request, job.id)
        self._start(job)
        return job

    async def GetImage(self, request: Any, _: Any) -> image_pb2.Image:
        return self._find(request.image_id)

    async def ResolveImage(self, request: Any, _: Any) -> image_pb2.Image:
        asked = request.name_or_id
        found = [i for i in self._state.images.values() if i.name == asked or i.id.startswith(asked)]
        if len(found) > 1:
            raise Refusal(code_pb2.INVALID_ARGUMENT, "AMBIGUOUS_NAME", f"{asked!r} fits several images")
        if not found:
            raise not_found(f"image {asked!r}")
        return found[0]

    async def ListImages(self, request: image_pb2.ListImagesRequest, _: Any) -> image_pb2.ListImagesResponse:
        filter = request.filter
        found = [
            image
            for image in self._state.images.values()
            if filter.name in ("", image.name)
            and (not filter.statuses or image.status in filter.statuses)
            and (not filter.disk_formats or image.disk_format in filter.disk_formats)
            and all(image.tags.get(key) == value for key, value in filter.tags.items())
        ]
        if request.order_by.startswith("name"):
            found.sort(key=lambda image: image.name, reverse=request.order_by.endswith(" desc"))
        begin = int(request.page_token or 0)
        end = begin + min(request.page_size, 2)  # small pages, so that paging is seen
        token = str(end) if end < len(found) else ""
        return image_pb2.ListImagesResponse(images=found[begin:end], next_page_token=token)

    async def UpdateImage(self, request: image_pb2.UpdateImageRequest, _: Any) -> image_pb2.Image:
        image = self._find(request.image_id)
        if request.etag not in ("", image.etag):
            raise Refusal(code_pb2.ABORTED, "CONFLICT", "the image was changed meanwhile")
        for path in request.update_mask.paths:
            name, _, key = path.partition(".")
            if key and request.image.properties.get(key):
                image.properties[key] = request.image.properties[key]
            elif key:
                image.properties.pop(key, None)
            elif name == "tags":
                image.tags.clear()
                image.tags.update(request.image.tags)
            else:
                setattr(image, name, getattr(request.image, name))
        image.etag = str(int(image.etag) + 1)
        return image

    async def DeleteImage(self, request: Any, _: Any) -> image_pb2.DeleteImageResponse:
        image = self._find(request.image_id)
        if image.is_protected:
            hint = "clear is_protected first"
            raise Refusal(code_pb2.FAILED_PRECONDITION, "IMAGE_PROTECTED", "the image is protected", hint)
        del self._state.images[image.id]
        return image_pb2.DeleteImageResponse()

    async def DownloadImage(
        self, request: image_pb2.DownloadImageRequest, context: Any
    ) -> AsyncIterator[image_pb2.DownloadImageResponse]:
        answer = image_pb2.DownloadImageResponse
        image = self._find(request.image_id)
        content = self._state.contents[image.id]
        yield answer(
            header=answer.Header(
                file_size_bytes=len(content),
                virtual_size_bytes=len(content),
                digest=image.digest,
                disk_format=request.disk_format,
            )
        )
        for start in range(0, len(content), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES]
            if self._state.cut_download_at is not None and start >= self._state.cut_download_at:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            if self._state.slow_download:
                await asyncio.sleep(0.2)
            yield answer(data=piece) if any(piece) else answer(zero_length=len(piece))
        yield answer(complete=answer.Complete(file_size_bytes=len(content)))

    async def InspectImage(self, request: image_pb2.InspectImageRequest, _: Any) -> guest_pb2.GuestReport:
        if request.image_id not in self._state.images:
            raise not_found("image")
        return GUEST

    async def VerifyImage(self, request: image_pb2.VerifyImageRequest, _: Any) -> job_pb2.Job:
        job = new_job(job_pb2.JOB_KIND_VERIFY_IMAGE, self._find(request.image_id).id)
        self._state.jobs[job.id] = job
        self._start(job)
        return job

    async def GetImageSpace(self, request: image_pb2.GetImageSpaceRequest, _: Any) -> image_pb2.ImageSpace:
        self._find(request.image_id)
        space = image_pb2.ImageSpace(image_id=request.image_id, store="main", stored_bytes=5 << 20)
        space.unique_bytes, space.shared_bytes, space.freed_bytes = 3 << 20, 2 << 20, 1 << 20
        space.counted_at.FromSeconds(1_700_000_000)
        space.is_current = True
        return space

    async def GetProjectSpace(
        self, request: image_pb2.GetProjectSpaceRequest, _: Any
    ) -> image_pb2.ProjectSpace:
        return image_pb2.ProjectSpace(
            project_id=request.project_id or "default",
            image_count=2,
            pack_bytes=3 << 20,
            shared_bytes=1 << 20,
        )

    def _find(self, image_id: str) -> image_pb2.Image:
        if image_id not in self._state.images:
            raise not_found(f"image {image_id}")
        return self._state.images[image_id]


class Jobs(job_pb2_grpc.JobServiceServicer):
    def __init__(self, state: State) -> None:
        self._state = state

    async def GetJob(self, request: Any, _: Any) -> job_pb2.Job:
        return self._find(request.job_id)

    async def ListJobs(self, request: job_pb2.ListJobsRequest, _: Any) -> job_pb2.ListJobsResponse:
        found = [
            job
            for job in self._state.jobs.values()
            if (not request.states or job.state in request.states)
            and (not request.kinds or job.kind in request.kinds)
            and (not request.image_id or request.image_id in job.image_ids)
        ]
        return job_pb2.ListJobsResponse(jobs=reversed(found))

    async def WatchJob(self, request: job_pb2.WatchJobRequest, context: Any) -> AsyncIterator[job_pb2.Job]:
        sent = 0
        while True:
            job = self._find(request.job_id)
            yield job
            sent += 1
            if job.state in (
                job_pb2.JOB_STATE_SUCCESS,
                job_pb2.JOB_STATE_FAIL,
                job_pb2.JOB_STATE_CANCELLED,
            ):
                return
            if self._state.drop_watch_after and sent >= self._state.drop_watch_after[0]:
                self._state.drop_watch_after.pop(0)
                return
            await asyncio.sleep(0.02)

    async def CancelJob(self, request: job_pb2.CancelJobRequest, _: Any) -> job_pb2.Job:
        job = self._find(request.job_id)
        if job.state in (job_pb2.JOB_STATE_INIT, job_pb2.JOB_STATE_RUNNING):
            job.state = job_pb2.JOB_STATE_CANCELLING
            if self._state.held:
                self._state.held.set()
        return job

    def _find(self, job_id: str) -> job_pb2.Job:
        if job_id not in self._state.jobs:
            raise not_found(f"job {job_id}")
        return self._state.jobs[job_id]
