"""`BucketService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from imsd.v1 import bucket_pb2 as pb
from imsd.v1.bucket_pb2_grpc import BucketServiceStub

from .connection import Connection

PAGE_SIZE = 500


class BucketCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/bucket.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = BucketServiceStub(connection.channel)

    async def list(self) -> Sequence[pb.Bucket]:
        """The buckets that the project may use, by name."""
        request = pb.ListBucketsRequest(project_id=self._project_id)
        answer = await self._connection.call(self._stub.ListBuckets, request)
        return list(answer.buckets)

    async def list_objects(
        self, bucket: str, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.BucketObject]:
        """All objects whose names begin with ``prefix``, by name, page by page."""
        request = pb.ListObjectsRequest(
            project_id=self._project_id, bucket=bucket, prefix=prefix, page_size=page_size
        )
        while True:
            page = await self._connection.call(self._stub.ListObjects, request)
            for found in page.objects:
                yield found
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
