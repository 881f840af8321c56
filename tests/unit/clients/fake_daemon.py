"""A small daemon in memory that keeps the contract of `imsd.v1`: offsets, fences, commits, errors.

It stores every byte it gets, so that a test can compare; it can lose a connection at any byte, be stopped
and started again, hold a job, and refuse anything with any reason.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from imsd.v1 import (
    catalog_pb2_grpc,
    driver_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    upload_pb2_grpc,
)
from tests.unit.clients import fake_catalog, fake_services
from tests.unit.clients.fake_state import NOON, Refusal, State, digest_of, new_job


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Writes a `Refusal` with its ErrorInfo; ``refuse_next`` refuses calls before they are served."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        method = details.method.rpartition("/")[2]
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    self._begin(method)
                    async for answer in inner(request, context):
                        yield answer
                except Refusal as refusal:
                    await context.abort_with_status(_status(refusal))

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(stream, handler.request_deserializer, handler.response_serializer)

        async def unary(request: Any, context: Any) -> Any:
            try:
                self._begin(method)
                return await handler.unary_unary(request, context)
            except Refusal as refusal:
                await context.abort_with_status(_status(refusal))

        return grpc.unary_unary_rpc_method_handler(
            unary, handler.request_deserializer, handler.response_serializer
        )

    def _begin(self, method: str) -> None:
        self._state.calls.append(method)
        if refusals := self._state.refuse_next.get(method):
            raise refusals.pop(0)


def _status(refusal: Refusal) -> Any:
    details = error_details_pb2.ErrorInfo(reason=refusal.reason, domain="imsd")
    if refusal.hint:
        details.metadata["hint"] = refusal.hint
    if refusal.field:
        details.metadata["field"] = refusal.field
    packed = any_pb2.Any()
    packed.Pack(details)
    return rpc_status.to_status(
        status_pb2.Status(code=refusal.code, message=refusal.message, details=[packed])
    )


class FakeDaemon:
    """The services on a unix socket; `stop` and `start` as often as one likes, the state stays."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/d.sock"
        self.state = State()
        self._server: grpc.aio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = server = grpc.aio.server(interceptors=[ErrorInterceptor(self.state)])
        upload_pb2_grpc.add_UploadServiceServicer_to_server(fake_services.Uploads(self.state), server)
        # The calls that it has not are UNIMPLEMENTED: tests of their commands run against a real daemon.
        images = fake_services.Images(self.state, self._start_job)  # type: ignore[abstract]
        image_pb2_grpc.add_ImageServiceServicer_to_server(images, server)
        job_pb2_grpc.add_JobServiceServicer_to_server(fake_services.Jobs(self.state), server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(fake_catalog.Catalog(), server)
        driver_pb2_grpc.add_DriverServiceServicer_to_server(fake_catalog.Drivers(), server)
        server.add_insecure_port(self.address)
        await server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0)
            self._server = None

    async def close(self) -> None:
        await self.stop()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def add_image(self, name: str, content: bytes = b"", **fields: Any) -> image_pb2.Image:
        """An image that is there already."""
        known: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "project_id": "default",
            "name": name,
            "status": image_pb2.IMAGE_STATUS_ACTIVE,
            "disk_format": image_pb2.DISK_FORMAT_RAW,
            "virtual_size_bytes": len(content),
            "digest": digest_of(content),
            "etag": "1",
            "created_at": NOON,
        }
        image = image_pb2.Image(**known | fields)
        self.state.images[image.id] = image
        self.state.contents[image.id] = content
        return image

    def add_job(self, state: job_pb2.JobState.ValueType, image_id: str = "") -> job_pb2.Job:
        job = new_job(job_pb2.JOB_KIND_CREATE_IMAGE, image_id or str(uuid.uuid4()))
        job.state = state
        self.state.jobs[job.id] = job
        return job

    def _start_job(self, job: job_pb2.Job) -> None:
        task = asyncio.create_task(self._run(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, job: job_pb2.Job) -> None:
        state = self.state
        job.state = job_pb2.JOB_STATE_RUNNING
        job.progress.phase = "store"
        await asyncio.sleep(0.02)
        if state.held:
            await state.held.wait()
        image = state.images.get(job.image_ids[0])
        if job.state == job_pb2.JOB_STATE_CANCELLING:
            await asyncio.sleep(0.05)
            state.images.pop(job.image_ids[0], None)
            job.state = job_pb2.JOB_STATE_CANCELLED
        elif state.job_failure:
            job.error.CopyFrom(state.job_failure)
            state.images.pop(job.image_ids[0], None)
            for upload_id in job.upload_ids:
                state.uploads[upload_id].job_id = ""
            job.state = job_pb2.JOB_STATE_FAIL
        elif job.kind == job_pb2.JOB_KIND_VERIFY_IMAGE:
            job.verify_report.chunks_checked = 12
            job.verify_report.damage.extend(state.damage)
            job.verify_report.damage_count = len(state.damage)
            job.state = job_pb2.JOB_STATE_SUCCESS
        else:
            assert image is not None
            upload = state.uploads.pop(job.upload_ids[0])
            content = bytes(upload.content)
            state.contents[image.id] = content
            image.virtual_size_bytes = image.data_size_bytes = len(content)
            image.digest = digest_of(content)
            image.active_at.CopyFrom(NOON)
            image.status = image_pb2.IMAGE_STATUS_ACTIVE
            job.progress.percent = 100
            job.state = job_pb2.JOB_STATE_SUCCESS
        job.finished_at.CopyFrom(NOON)
