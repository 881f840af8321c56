"""UploadService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imsd.contract import InvalidRequest
from imsd.core import checks
from imsd.core.upload_session import UploadSession
from imsd.core.uploads import NewUpload, Uploads
from imsd.metadata.records import UploadRecord
from imsd.v1 import upload_pb2 as pb
from imsd.v1.upload_pb2_grpc import UploadServiceServicer

from . import convert
from .context import Context


class UploadServicer(UploadServiceServicer):
    """Serves ``imsd.v1.UploadService``; what each call means is written in the .proto file."""

    def __init__(self, uploads: Uploads, part_size_bytes: int) -> None:
        self._uploads = uploads
        self._part_size_bytes = part_size_bytes

    async def CreateUpload(self, request: pb.CreateUploadRequest, _: Context) -> pb.Upload:
        key = convert.request_key(request, request.project_id, request.request_id)
        new = NewUpload(
            size_bytes=request.size_bytes,
            file_name=request.file_name,
            disk_format=convert.format_from_pb(request.disk_format),
            expected_sha256=request.expected_sha256,
            fingerprint=request.fingerprint,
        )
        return self._to_pb(await self._uploads.create(key, new))

    async def GetUpload(self, request: pb.GetUploadRequest, _: Context) -> pb.Upload:
        return self._to_pb(await self._uploads.get(request.project_id, request.upload_id))

    async def ListUploads(self, request: pb.ListUploadsRequest, _: Context) -> pb.ListUploadsResponse:
        uploads, token = await self._uploads.list(
            request.project_id, request.fingerprint, request.page_size, request.page_token
        )
        return pb.ListUploadsResponse(uploads=map(self._to_pb, uploads), next_page_token=token)

    async def WriteUpload(
        self, requests: AsyncIterator[pb.WriteUploadRequest], _: Context
    ) -> AsyncIterator[pb.WriteUploadResponse]:
        header = await _header(requests)
        async with self._uploads.writing(
            checks.project_id(header.project_id), header.upload_id, header.offset
        ) as session:
            yield _answer(session)
            told = session.committed_offset
            async for request in session.steps(requests):
                await _take(session, request)
                if session.committed_offset != told or request.WhichOneof("step") == "flush":
                    told = session.committed_offset
                    yield _answer(session)

    async def CommitUpload(self, request: pb.CommitUploadRequest, _: Context) -> pb.Upload:
        return self._to_pb(
            await self._uploads.commit(
                request.project_id, request.upload_id, request.size_bytes, request.digest
            )
        )

    async def DeleteUpload(self, request: pb.DeleteUploadRequest, _: Context) -> pb.DeleteUploadResponse:
        await self._uploads.delete(request.project_id, request.upload_id)
        return pb.DeleteUploadResponse()

    def _to_pb(self, record: UploadRecord) -> pb.Upload:
        return convert.upload_to_pb(record, self._part_size_bytes)


async def _header(requests: AsyncIterator[pb.WriteUploadRequest]) -> pb.WriteUploadRequest.Header:
    async for request in requests:
        if request.WhichOneof("step") != "header":
            break
        return request.header
    raise InvalidRequest("the first message of the stream must be a header", field="header")


async def _take(session: UploadSession, request: pb.WriteUploadRequest) -> None:
    step = request.WhichOneof("step")
    if step == "data":
        await session.write(request.data)
    elif step == "zero_length":
        await session.write_zeros(request.zero_length)
    elif step == "flush":
        await session.flush()
    else:
        raise InvalidRequest("a message must be data, zero_length or flush, and the header comes once")


def _answer(session: UploadSession) -> pb.WriteUploadResponse:
    return pb.WriteUploadResponse(
        committed_offset=session.committed_offset, received_offset=session.received_offset
    )
