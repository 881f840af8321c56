"""UploadService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from grpc.aio import EOF

from imsd import wire
from imsd.chunks.known_chunks import NamedChunk
from imsd.contract import InvalidRequest
from imsd.core import checks
from imsd.core.file_blocks import FileRange
from imsd.core.file_blocks import Step as FileStep
from imsd.core.handed_files import HandedFiles
from imsd.core.runtime import Runtime
from imsd.core.upload_chunks import UploadChunks
from imsd.core.upload_session import UploadSession
from imsd.core.uploads import GoneUpload, NewUpload, Uploads
from imsd.metadata.records import UploadRecord
from imsd.v1 import upload_pb2 as pb
from imsd.v1.upload_pb2_grpc import UploadServiceServicer

from . import convert
from .context import Context
from .gate import current_admission

# A writer learns how far it is at least so often.
ANSWER_BYTES = 32 << 20

Step = tuple[str | None, Any]


class UploadServicer(UploadServiceServicer):
    """Serves ``imsd.v1.UploadService``; what each call means is written in the .proto file."""

    def __init__(self, uploads: Uploads, files: HandedFiles, runtime: Runtime, max_streams: int) -> None:
        self._uploads = uploads
        self._files = files
        self._chunks = UploadChunks(runtime)
        self._pool = runtime.pool
        self._part_size_bytes = runtime.limits.upload_part_bytes
        self._places = asyncio.Semaphore(max_streams)
        self._waiting = 0

    async def CreateUpload(self, request: pb.CreateUploadRequest, _: Context) -> pb.Upload:
        key = convert.request_key(request, request.project_id, request.request_id)
        new = NewUpload(
            size_bytes=request.size_bytes,
            file_name=request.file_name,
            disk_format=convert.format_from_pb(request.disk_format),
            expected_sha256=request.expected_sha256,
            fingerprint=request.fingerprint,
            is_fast=request.is_fast,
            store=request.store,
            key=request.key,
        )
        upload = await self._uploads.create(key, new)
        if isinstance(upload, GoneUpload):
            return pb.Upload(id=upload.id, project_id=upload.project_id, state=pb.UPLOAD_STATE_GONE)
        return self._to_pb(upload)

    async def GetUpload(self, request: pb.GetUploadRequest, _: Context) -> pb.Upload:
        return self._to_pb(await self._uploads.get(request.project_id, request.upload_id))

    async def ListUploads(self, request: pb.ListUploadsRequest, _: Context) -> pb.ListUploadsResponse:
        uploads, token = await self._uploads.list(
            request.project_id, request.fingerprint, request.page_size, request.page_token
        )
        return pb.ListUploadsResponse(uploads=map(self._to_pb, uploads), next_page_token=token)

    async def WriteUpload(
        self, _: AsyncIterator[pb.WriteUploadRequest], context: Context
    ) -> AsyncIterator[pb.WriteUploadResponse]:
        header = await _header(context)
        project_id = checks.project_id(header.project_id)
        async with (
            self._steps(header, context) as coming,  # first: a file that waits for a place is kept
            self._place(),
            self._uploads.writing(project_id, header.upload_id, header.offset) as session,
            aclosing(session.steps(coming, self._is_place_wanted)) as steps,
        ):
            async for answer in self._answers(session, steps):
                current_admission().answered(answer)
                yield answer

    async def FindUploadChunks(
        self, request: pb.FindUploadChunksRequest, _: Context
    ) -> pb.FindUploadChunksResponse:
        upload = await self._uploads.get_open(request.project_id, request.upload_id)
        known = await self._chunks.find(upload, _named(request.chunks))
        return pb.FindUploadChunksResponse(known=known)

    async def CommitUpload(self, request: pb.CommitUploadRequest, _: Context) -> pb.Upload:
        return self._to_pb(
            await self._uploads.commit(
                request.project_id, request.upload_id, request.size_bytes, request.digest
            )
        )

    async def DeleteUpload(self, request: pb.DeleteUploadRequest, _: Context) -> pb.DeleteUploadResponse:
        await self._uploads.delete(request.project_id, request.upload_id)
        return pb.DeleteUploadResponse()

    @asynccontextmanager
    async def _steps(
        self, header: pb.WriteUploadRequest.Header, context: Context
    ) -> AsyncIterator[AsyncIterator[Step]]:
        """What the writer sends, or the file that it handed over."""
        if not header.file_token:
            yield _steps(context)
            return
        with self._files.take(header.file_token) as file:
            async with aclosing(file.steps(header.offset, self._pool, self._part_size_bytes)) as steps:
                yield _file_steps(steps)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Each stream holds a message outside the daemon's byte budget: one too many waits, unread."""
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    def _is_place_wanted(self) -> bool:
        return self._waiting > 0

    async def _answers(
        self, session: UploadSession, steps: AsyncIterator[Step]
    ) -> AsyncIterator[pb.WriteUploadResponse]:
        yield _answer(session)
        told, received = session.committed_offset, session.received_offset
        async for kind, value in steps:
            await self._take(session, kind, value)
            del value  # or it would stay in memory until the next message has come
            has_come_far = session.received_offset - received >= ANSWER_BYTES
            if session.committed_offset != told or has_come_far or kind == "flush":
                told, received = session.committed_offset, session.received_offset
                yield _answer(session)

    async def _take(self, session: UploadSession, kind: str | None, value: Any) -> None:
        if kind == "data":
            await session.write(value)
        elif kind == "zero_length":
            await session.write_zeros(value)
        elif kind == "range":
            await session.copy(value)
        elif kind == "flush":
            await session.flush()
        elif kind == "known":
            async with aclosing(self._chunks.read(session.record, _named(value.chunks))) as pieces:
                async for piece in pieces:
                    await session.write(piece)
        else:
            raise InvalidRequest(
                "a message must be data, zero_length, known or flush, and the header comes once"
            )

    def _to_pb(self, record: UploadRecord) -> pb.Upload:
        upload = convert.upload_to_pb(record, self._part_size_bytes)
        upload.proof_key = self._chunks.proof_key(record)
        return upload


async def _header(context: Context) -> pb.WriteUploadRequest.Header:
    request = await context.read()
    if not isinstance(request, pb.WriteUploadRequest) or request.WhichOneof("step") != "header":
        raise InvalidRequest("the first message of the stream must be a header", field="header")
    header: pb.WriteUploadRequest.Header = request.header
    await current_admission().admit(header)
    return header


async def _steps(context: Context) -> AsyncIterator[Step]:
    """Each message's kind and value; nothing is kept of it while the next one is awaited.

    As grpc's own iterator of the messages would do.
    """
    while (request := await context.read()) is not EOF:
        step = _step(request)
        del request
        yield step
        del step


async def _file_steps(steps: AsyncIterator[FileStep]) -> AsyncIterator[Step]:
    """The steps of a writer that sends all of a file and then a flush."""
    async for step in steps:
        if isinstance(step, FileRange):
            yield "range", step
        else:
            yield ("zero_length" if isinstance(step, int) else "data"), step
    yield "flush", None


def _step(request: pb.WriteUploadRequest | wire.ReceivedBytes) -> Step:
    if isinstance(request, wire.ReceivedBytes):
        return "data", request.content
    kind = request.WhichOneof("step")
    return kind, getattr(request, kind) if kind else None


def _answer(session: UploadSession) -> pb.WriteUploadResponse:
    return pb.WriteUploadResponse(
        committed_offset=session.committed_offset, received_offset=session.received_offset
    )


def _named(chunks: Iterable[pb.UploadChunk]) -> list[NamedChunk]:
    return [NamedChunk(chunk.digest, chunk.length, chunk.proof) for chunk in chunks]
