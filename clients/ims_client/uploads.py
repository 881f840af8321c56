"""`UploadService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from imsd import wire
from imsd.v1 import upload_pb2 as pb
from imsd.v1.upload_pb2_grpc import UploadServiceStub

from .connection import Connection

PAGE_SIZE = 500
# What one call may ask for.
MAX_ASKED_CHUNKS = 512


class UploadCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/upload.proto``."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._project_id = connection.project_id
        self._stub = UploadServiceStub(connection.channel)

    async def create(self, request: pb.CreateUploadRequest) -> pb.Upload:
        """Open an upload; the project of this client is filled in."""
        request.project_id = self._project_id
        upload: pb.Upload = await self.connection.call(self._stub.CreateUpload, request)
        return upload

    async def get(self, upload_id: str) -> pb.Upload:
        request = pb.GetUploadRequest(project_id=self._project_id, upload_id=upload_id)
        upload: pb.Upload = await self.connection.call(self._stub.GetUpload, request)
        return upload

    async def list(self, fingerprint: str = "", page_size: int = PAGE_SIZE) -> AsyncIterator[pb.Upload]:
        """All uploads, or those with this mark, newest first, page by page."""
        request = pb.ListUploadsRequest(
            project_id=self._project_id, fingerprint=fingerprint, page_size=page_size
        )
        while True:
            page = await self.connection.call(self._stub.ListUploads, request)
            for upload in page.uploads:
                yield upload
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def find_chunks(self, upload_id: str, chunks: Sequence[pb.UploadChunk]) -> Sequence[bool]:
        """Which of ``chunks`` (1 to `MAX_ASKED_CHUNKS`) need not be sent."""
        request = pb.FindUploadChunksRequest(project_id=self._project_id, upload_id=upload_id, chunks=chunks)
        answer = await self.connection.call(self._stub.FindUploadChunks, request)
        return list(answer.known)

    def open_writer(self) -> Any:
        """The two-way stream of WriteUpload, a grpc.aio call; `ims_client.upload` speaks it."""
        call = self.connection.channel.stream_stream(
            "/imsd.v1.UploadService/WriteUpload",
            request_serializer=wire.serialize,
            response_deserializer=pb.WriteUploadResponse.FromString,
        )
        return call()

    def header(self, upload_id: str, offset: int, file_token: bytes = b"") -> pb.WriteUploadRequest:
        """The first message of that stream, and the only one for a file that was handed over."""
        header = pb.WriteUploadRequest.Header(
            project_id=self._project_id, upload_id=upload_id, offset=offset, file_token=file_token
        )
        return pb.WriteUploadRequest(header=header)

    async def commit(self, upload_id: str, size_bytes: int, digest: str = "") -> pb.Upload:
        """Say that all bytes were sent; ``digest`` vouches for them unless it is empty."""
        request = pb.CommitUploadRequest(
            project_id=self._project_id, upload_id=upload_id, size_bytes=size_bytes, digest=digest
        )
        upload: pb.Upload = await self.connection.call(self._stub.CommitUpload, request)
        return upload

    async def delete(self, upload_id: str) -> None:
        request = pb.DeleteUploadRequest(project_id=self._project_id, upload_id=upload_id)
        await self.connection.call(self._stub.DeleteUpload, request)
