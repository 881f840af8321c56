"""BucketService: the buckets of a project, and the objects in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import EOF

from imsd import wire
from imsd.contract import Cancelled, InvalidRequest, StoredBlob
from imsd.core.buckets import Bucket, BucketPages, Buckets
from imsd.core.feeds import FeedStep
from imsd.core.object_feed import version_mark
from imsd.core.objects.bucket_objects import BucketObjects, WantedBytes
from imsd.core.objects.object_put import NewObject, ObjectPut, awaited
from imsd.v1 import bucket_pb2 as pb
from imsd.v1.bucket_pb2_grpc import BucketServiceServicer

from .context import Context
from .convert import time_to_pb
from .gate import current_admission

Step = tuple[str | None, Any]


class BucketServicer(BucketServiceServicer):
    """Serves ``imsd.v1.BucketService``; what each call means is written in the .proto file."""

    def __init__(self, buckets: Buckets, pages: BucketPages, objects: BucketObjects) -> None:
        self._buckets = buckets
        self._pages = pages
        self._objects = objects

    async def ListBuckets(self, request: pb.ListBucketsRequest, _: Context) -> pb.ListBucketsResponse:
        found = self._buckets.of_project(request.project_id)
        return pb.ListBucketsResponse(buckets=map(_bucket_to_pb, found))

    async def ListObjects(self, request: pb.ListObjectsRequest, _: Context) -> pb.ListObjectsResponse:
        objects, token = await self._pages.page(
            request.project_id, request.bucket, request.prefix, request.page_size, request.page_token
        )
        return pb.ListObjectsResponse(objects=map(_object_to_pb, objects), next_page_token=token)

    async def StatObject(self, request: pb.StatObjectRequest, _: Context) -> pb.BucketObject:
        return _object_to_pb(await self._objects.stat(request.project_id, request.object))

    async def GetObject(  # type: ignore[override]  # what is on the wire is the same
        self, request: pb.GetObjectRequest, _: Context
    ) -> AsyncIterator[pb.GetObjectResponse | wire.FileBytes]:
        wanted = WantedBytes(request.offset, request.length, request.etag)
        async with self._objects.reading(request.project_id, request.object, wanted) as reading:
            header = pb.GetObjectResponse.Header(object=_object_to_pb(reading.stored), length=reading.length)
            yield pb.GetObjectResponse(header=header)
            async for step in reading.steps:
                yield _piece(step)
            yield pb.GetObjectResponse(complete=pb.GetObjectResponse.Complete(length=reading.length))

    async def PutObject(
        self, _: AsyncIterator[pb.PutObjectRequest], context: Context
    ) -> pb.PutObjectResponse:
        header = await _header(context)
        new = NewObject(header.object, header.size_bytes if header.HasField("size_bytes") else None)
        async with self._objects.putting(header.project_id, new) as put:
            async for kind, value in awaited(_steps(context), self._objects.is_place_wanted):
                if kind == "commit":
                    stored, sha256 = await put.commit(value.size_bytes, value.expected_sha256)
                    return pb.PutObjectResponse(object=_object_to_pb(stored), sha256=sha256)
                await _take(put, kind, value)
                del value  # or it would stay in memory until the next message has come
        raise Cancelled(
            "the stream ended without a commit", hint="nothing of the object is kept: send it again"
        )

    async def DeleteObject(self, request: pb.DeleteObjectRequest, _: Context) -> pb.DeleteObjectResponse:
        await self._objects.delete(request.project_id, request.object, request.etag)
        return pb.DeleteObjectResponse()


async def _header(context: Context) -> pb.PutObjectRequest.Header:
    request = await context.read()
    if not isinstance(request, pb.PutObjectRequest) or request.WhichOneof("step") != "header":
        raise InvalidRequest("the first message of the stream must be a header", field="header")
    header: pb.PutObjectRequest.Header = request.header
    await current_admission().admit(header)
    return header


async def _steps(context: Context) -> AsyncIterator[Step]:
    """Each message's kind and value; nothing is kept of it while the next one is awaited."""
    while (request := await context.read()) is not EOF:
        if isinstance(request, wire.ReceivedBytes):
            step: Step = "data", request.content
        else:
            kind = request.WhichOneof("step")
            step = kind, getattr(request, kind) if kind else None
        del request
        yield step
        del step


async def _take(put: ObjectPut, kind: str | None, value: Any) -> None:
    if kind == "data":
        await put.write(value)
    elif kind == "zero_length":
        await put.write_zeros(value)
    else:
        raise InvalidRequest("a message must be data, zero_length or commit, and the header comes once")


def _piece(step: FeedStep) -> pb.GetObjectResponse | wire.FileBytes:
    if isinstance(step, int):
        return pb.GetObjectResponse(zero_length=step)
    assert isinstance(step, bytes | bytearray | memoryview), "an object is no local file"
    return wire.FileBytes([step])


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
        name=stored.id,
        size_bytes=stored.size_bytes,
        modified_at=time_to_pb(stored.modified_at),
        etag=version_mark(stored),
    )
