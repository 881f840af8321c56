"""A blob store at the other end of a gRPC channel: the contract of a store survives a wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

import grpc

from imsd.contract import (
    BlobId,
    BlobStore,
    Buffer,
    ByteRange,
    DataLoss,
    Ingest,
    StoreCapabilities,
    StoredBlob,
    StoreUsage,
    Unavailable,
)

from .blob_wire import FAILURE_KEY, PIECE_BYTES, blob_from_pb, failure_from_pb
from .v1 import blob_pb2 as pb
from .v1.blob_pb2_grpc import BlobServiceStub

if TYPE_CHECKING:
    from .v1.blob_pb2_grpc import BlobServiceAsyncStub

IngestCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.IngestRequest, pb.IngestResponse]"

# How long a cancelled commit, or an ingest that is left, waits for the server's last word.
LAST_WORD_SECONDS = 10.0


@asynccontextmanager
async def open_remote_store(address: str) -> AsyncIterator[BlobStore]:
    """The store that a `BlobServicer` serves at ``address``. Raises Unavailable (STORE_UNAVAILABLE)."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cast("BlobServiceAsyncStub", BlobServiceStub(channel))
        with _told():
            offered = await stub.GetCapabilities(pb.GetCapabilitiesRequest())
        yield RemoteStore(stub, StoreCapabilities(**dict.fromkeys(offered.names, True)))


class RemoteStore(BlobStore):
    """Speaks ``imsd.testing.v1.BlobService``."""

    def __init__(self, stub: BlobServiceAsyncStub, capabilities: StoreCapabilities) -> None:
        self.capabilities = capabilities
        self._stub = stub

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        ingest = RemoteIngest(self._stub.Ingest())
        try:
            await ingest.begin(blob)
            yield ingest
        finally:
            await ingest.close()

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        asked = [pb.ReadRequest.Range(offset=wanted.offset, length=wanted.length) for wanted in ranges]
        pieces: list[list[bytes]] = [[] for _ in ranges]
        with _told():
            async for answer in self._stub.Read(pb.ReadRequest(id=blob, ranges=asked)):
                pieces[answer.range].append(answer.piece)
        contents = [b"".join(each) for each in pieces]
        if [len(content) for content in contents] != [wanted.length for wanted in ranges]:
            raise DataLoss(f"blob {blob}: the answer does not have the length that was asked for")
        return contents

    async def stat(self, blob: BlobId) -> StoredBlob:
        with _told():
            return blob_from_pb(await self._stub.Stat(pb.StatRequest(id=blob)))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        call = self._stub.List(pb.ListRequest(prefix=prefix, after=after))
        try:
            with _told():
                async for answer in call:
                    yield blob_from_pb(answer.blob)
        finally:
            call.cancel()

    async def delete(self, blob: BlobId) -> None:
        with _told():
            await self._stub.Delete(pb.DeleteRequest(id=blob))

    async def usage(self) -> StoreUsage:
        with _told():
            usage = await self._stub.GetUsage(pb.GetUsageRequest())
        return StoreUsage(
            usage.used_bytes if usage.HasField("used_bytes") else None,
            usage.free_bytes if usage.HasField("free_bytes") else None,
        )


class RemoteIngest(Ingest):
    """One stream; each step is answered before the next is sent."""

    def __init__(self, call: IngestCall) -> None:
        self._call = call
        self._size_bytes = 0

    async def begin(self, blob: BlobId) -> None:
        await self._step(pb.IngestRequest(begin=pb.IngestRequest.Begin(id=blob)))

    async def write(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            for start in range(0, view.nbytes, PIECE_BYTES):
                piece = bytes(view[start : start + PIECE_BYTES])
                await self._step(pb.IngestRequest(write=piece))
                self._size_bytes += len(piece)

    async def commit(self) -> StoredBlob:
        commit = pb.IngestRequest.Commit(size_bytes=self._size_bytes)
        step = asyncio.ensure_future(self._step(pb.IngestRequest(commit=commit)))
        try:
            answer = await asyncio.shield(step)
        except asyncio.CancelledError:
            # Cancelling the call would leave the outcome open: the server may be at it.
            await asyncio.wait([step], timeout=LAST_WORD_SECONDS)
            if not step.cancel() and not step.cancelled():
                step.exception()  # retrieved here, or asyncio logs it as lost
            raise
        return blob_from_pb(answer.committed)

    async def close(self) -> None:
        """Wait until the server has let go of the ingest; without a commit it discards it."""
        try:
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await self._call.done_writing()
                await self._call.code()
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return
        finally:
            self._call.cancel()

    async def _step(self, request: pb.IngestRequest) -> pb.IngestResponse:
        with _told():
            await self._call.write(request)
            answer = await self._call.read()
            if isinstance(answer, pb.IngestResponse):
                return answer
            await self._call  # the stream ended early: raises what the server told, if it did
        raise Unavailable("the server ended the ingest early", reason="STORE_UNAVAILABLE")


@contextmanager
def _told() -> Iterator[None]:
    """Raise what the server told; a failure without words means that it is out of reach."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        for key, value in error.trailing_metadata() or ():
            if key == FAILURE_KEY and isinstance(value, bytes):
                raise failure_from_pb(pb.Failure.FromString(value)) from error
        raise Unavailable(
            f"the store is out of reach: {error.details()}",
            reason="STORE_UNAVAILABLE",
            hint="try again later",
        ) from error
    except asyncio.InvalidStateError as error:
        raise Unavailable("the ingest has ended already", reason="STORE_UNAVAILABLE") from error
