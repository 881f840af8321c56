"""BucketService: the buckets of a project, and the objects in them."""

from __future__ import annotations

from imsd.contract import StoredBlob
from imsd.core.buckets import Bucket, BucketPages, Buckets
from imsd.v1 import bucket_pb2 as pb
from imsd.v1.bucket_pb2_grpc import BucketServiceServicer

from .context import Context
from .convert import time_to_pb


class BucketServicer(BucketServiceServicer):
    """Serves ``imsd.v1.BucketService``; what each call means is written in the .proto file."""

    def __init__(self, buckets: Buckets, pages: BucketPages) -> None:
        self._buckets = buckets
        self._pages = pages

    async def ListBuckets(self, request: pb.ListBucketsRequest, _: Context) -> pb.ListBucketsResponse:
        found = self._buckets.of_project(request.project_id)
        return pb.ListBucketsResponse(buckets=map(_bucket_to_pb, found))

    async def ListObjects(self, request: pb.ListObjectsRequest, _: Context) -> pb.ListObjectsResponse:
        objects, token = await self._pages.page(
            request.project_id, request.bucket, request.prefix, request.page_size, request.page_token
        )
        return pb.ListObjectsResponse(objects=map(_object_to_pb, objects), next_page_token=token)


def _bucket_to_pb(bucket: Bucket) -> pb.Bucket:
    return pb.Bucket(
        name=bucket.name,
        region=bucket.region,
        storage_class=bucket.storage_class,
        driver=bucket.driver,
        is_read_only=bucket.is_read_only,
    )


def _object_to_pb(stored: StoredBlob) -> pb.BucketObject:
    return pb.BucketObject(
        name=stored.id, size_bytes=stored.size_bytes, modified_at=time_to_pb(stored.modified_at)
    )
