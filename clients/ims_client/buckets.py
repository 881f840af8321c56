"""`BucketService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from imsd import wire
from imsd.v1 import bucket_pb2 as pb
from imsd.v1.bucket_pb2_grpc import BucketServiceStub

from .connection import Connection

PAGE_SIZE = 500


class BucketCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/bucket.proto``."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._project_id = connection.project_id
        self._stub = BucketServiceStub(connection.channel)

    async def list(self) -> Sequence[pb.Bucket]:
        """The buckets that the project may use, by name."""
        request = pb.ListBucketsRequest(project_id=self._project_id)
        answer = await self.connection.call(self._stub.ListBuckets, request)
        return list(answer.buckets)

    async def list_objects(
        self, bucket: str, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.BucketObject]:
        """All objects whose names begin with ``prefix``, by name, page by page."""
        request = pb.ListObjectsRequest(
            project_id=self._project_id, bucket=bucket, prefix=prefix, page_size=page_size
        )
        while True:
            page = await self.connection.call(self._stub.ListObjects, request)
            for found in page.objects:
                yield found
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def stat(self, place: str) -> pb.BucketObject:
        """The object ``place`` (BUCKET:OBJECT)."""
        request = pb.StatObjectRequest(project_id=self._project_id, object=place)
        found: pb.BucketObject = await self.connection.call(self._stub.StatObject, request)
        return found

    async def delete(self, place: str, etag: str = "") -> None:
        """Remove the object ``place``; ``etag``: only if it is of this version."""
        request = pb.DeleteObjectRequest(project_id=self._project_id, object=place, etag=etag)
        await self.connection.call(self._stub.DeleteObject, request)

    def get(
        self, place: str, offset: int = 0, etag: str = ""
    ) -> AsyncIterator[pb.GetObjectResponse | wire.ReceivedBytes]:
        """The messages as they come; `ims_client.object_transfer` checks them and goes on after a break."""
        request = pb.GetObjectRequest(project_id=self._project_id, object=place, offset=offset, etag=etag)
        call = self.connection.channel.unary_stream(
            "/imsd.v1.BucketService/GetObject",
            request_serializer=pb.GetObjectRequest.SerializeToString,
            response_deserializer=wire.reader_of(pb.GetObjectResponse),
        )
        return self.connection.stream(call, request)

    def open_put(self) -> Any:
        """The stream of PutObject, a grpc.aio call; `ims_client.object_transfer` speaks it.

        As a two-way stream, the same on the wire: of those a refusal is seen while messages are sent.
        """
        call = self.connection.channel.stream_stream(
            "/imsd.v1.BucketService/PutObject",
            request_serializer=wire.serialize,
            response_deserializer=pb.PutObjectResponse.FromString,
        )
        return call()

    def put_header(self, place: str, size_bytes: int | None) -> pb.PutObjectRequest:
        """The first message of that stream; ``size_bytes`` None: not known."""
        header = pb.PutObjectRequest.Header(project_id=self._project_id, object=place, size_bytes=size_bytes)
        return pb.PutObjectRequest(header=header)
