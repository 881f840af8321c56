"""Any blob store, served over gRPC: the server's half of `imsd.testing.remote_store`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from typing import Any, TypeAlias

import grpc

from imsd.contract import BlobStore, ByteRange, ImsError, Ingest, InvalidRequest, StoredBlob, blob_id

from .blob_wire import FAILURE_KEY, PIECE_BYTES, blob_to_pb, failure_to_pb
from .v1 import blob_pb2 as pb
from .v1.blob_pb2_grpc import BlobServiceServicer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class BlobServicer(BlobServiceServicer):
    """Serves ``store``. Before the store is closed, wait for `settled`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def settled(self) -> None:
        """Wait until no call uses the store: a stopped server does not wait for handlers it cut."""
        await self._idle.wait()

    async def GetCapabilities(
        self, _request: pb.GetCapabilitiesRequest, _: Context
    ) -> pb.GetCapabilitiesResponse:
        offered = self._store.capabilities
        names = [field.name for field in fields(offered) if getattr(offered, field.name)]
        return pb.GetCapabilitiesResponse(names=names)

    async def Ingest(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        async with self._call(context):
            first = await anext(requests, None)
            if first is None or first.WhichOneof("step") != "begin":
                raise InvalidRequest("an ingest starts with begin", field="step")
            async with self._store.begin(blob_id(first.begin.id)) as ingest:
                yield pb.IngestResponse()
                size_bytes = 0
                async for request in requests:
                    committed = await _take(ingest, request, size_bytes)
                    if committed is not None:
                        yield pb.IngestResponse(committed=blob_to_pb(committed))
                        return
                    size_bytes += len(request.write)
                    yield pb.IngestResponse()

    async def Read(self, request: pb.ReadRequest, context: Context) -> AsyncIterator[pb.ReadResponse]:
        async with self._call(context):
            ranges = [ByteRange(asked.offset, asked.length) for asked in request.ranges]
            for index, content in enumerate(await self._store.read(blob_id(request.id), ranges)):
                for start in range(0, len(content), PIECE_BYTES):
                    yield pb.ReadResponse(range=index, piece=content[start : start + PIECE_BYTES])

    async def Stat(self, request: pb.StatRequest, context: Context) -> pb.Blob:
        async with self._call(context):
            return blob_to_pb(await self._store.stat(blob_id(request.id)))

    async def List(self, request: pb.ListRequest, context: Context) -> AsyncIterator[pb.ListResponse]:
        async with self._call(context):
            async for stored in self._store.list(request.prefix, request.after):
                yield pb.ListResponse(blob=blob_to_pb(stored))

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        async with self._call(context):
            await self._store.delete(blob_id(request.id))
            return pb.DeleteResponse()

    async def GetUsage(self, _request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        async with self._call(context):
            usage = await self._store.usage()
            return pb.GetUsageResponse(used_bytes=usage.used_bytes, free_bytes=usage.free_bytes)

    @asynccontextmanager
    async def _call(self, context: Context) -> AsyncIterator[None]:
        """Count the call, and tell its error to the client."""
        with self._counted():
            try:
                yield
            except ImsError as error:
                failure = failure_to_pb(error).SerializeToString()
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, error.message, ((FAILURE_KEY, failure),)
                )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


async def _take(ingest: Ingest, request: pb.IngestRequest, size_bytes: int) -> StoredBlob | None:
    """Do one step after `begin`; the blob when it was the commit."""
    step = request.WhichOneof("step")
    if step == "write":
        await ingest.write([request.write])
        return None
    if step != "commit":
        raise InvalidRequest("an ingest is begun once", field="step")
    if request.commit.size_bytes != size_bytes:
        raise InvalidRequest(
            f"{request.commit.size_bytes} bytes were to be committed, {size_bytes} arrived",
            field="size_bytes",
        )
    return await ingest.commit()
