"""Files to and from buckets: put whole, got whole through broken connections."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc.aio

from imsd import wire
from imsd.v1 import bucket_pb2 as pb

from .backoff import PATIENCE_SECONDS
from .buckets import BucketCalls
from .call_ending import CallEnding
from .errors import CallFailed, call_failed, damaged_download
from .file_output import Piece
from .upload_source import ZEROS, FileSource, Step, UploadSource

READ_AHEAD_STEPS = 3


class ObjectDownload:
    """The bytes of the object ``place`` (BUCKET:OBJECT), in order; for `write_file` and `write_stream`.

    When the connection breaks, it goes on where it was, with the same version of the object or not at all.
    """

    def __init__(self, buckets: BucketCalls, place: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._buckets = buckets
        self._place = place
        self._backoff = buckets.connection.backoff(patience_seconds)
        self.object = pb.BucketObject()
        self.position = 0

    @property
    def size_bytes(self) -> int:
        """Of the object; 0 until its header is there."""
        return self.object.size_bytes

    async def pieces(self) -> AsyncIterator[Piece]:
        """The whole object, once. Raises `CallFailed`; what came before an error is worthless."""
        while True:
            try:
                async for piece in self._rest():
                    self.position += piece.length
                    self._backoff.succeeded()
                    yield piece
                return
            except CallFailed as error:
                if not error.is_transient or not await self._backoff.wait(error):
                    raise

    async def _rest(self) -> AsyncIterator[Piece]:
        async for message in self._buckets.get(self._place, self.position, self.object.etag):
            if isinstance(message, wire.ReceivedBytes):
                yield self._piece(len(message.content), message.content)
                continue
            step = message.WhichOneof("step")
            if step == "header":
                self.object = message.header.object
            elif step == "complete":
                if self.position != self.size_bytes:
                    raise damaged_download(f"{self.position} bytes came of {self.size_bytes}")
                return
            elif step == "data":
                yield self._piece(len(message.data), memoryview(message.data))
            elif step == "zero_length":
                yield self._piece(message.zero_length, None)
        raise CallFailed("UNAVAILABLE", "the stream of the object was cut off", "start again")

    def _piece(self, length: int, content: memoryview | None) -> Piece:
        if not 0 < length <= self.size_bytes - self.position:
            raise damaged_download(f"{length} bytes are announced where they cannot be")
        return Piece(self.position, length, content)


async def put_object(
    buckets: BucketCalls,
    place: str,
    source: UploadSource,
    expected_sha256: str = "",
    on_progress: Callable[[int], None] = lambda offset: None,
) -> pb.PutObjectResponse:
    """Make all of ``source`` the object ``place`` (BUCKET:OBJECT), which must not exist.

    ``expected_sha256``: 64 hex digits, or empty: that of what was read vouches for what came. Broken off, it
    leaves nothing. Raises `CallFailed`, `LocalFileFailed`.
    """
    return await _ObjectPut(buckets, source, expected_sha256, on_progress).put(place)


class _ObjectPut:
    def __init__(
        self,
        buckets: BucketCalls,
        source: UploadSource,
        expected_sha256: str,
        on_progress: Callable[[int], None],
    ) -> None:
        self._buckets = buckets
        self._source = source
        self._expected = expected_sha256
        self._on_progress = on_progress
        self._hasher = hashlib.sha256()

    async def put(self, place: str) -> pb.PutObjectResponse:
        reader = ThreadPoolExecutor(1, "imsd-read")
        call = self._buckets.open_put()
        ending = CallEnding(call)
        sending = asyncio.create_task(self._send(call, reader, place))
        answering = asyncio.create_task(call.read())
        try:
            await asyncio.wait([sending, answering], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # or what is wrong with the file
            response = await answering
            if response is grpc.aio.EOF:
                raise CallFailed("UNAVAILABLE", "the daemon closed the stream of the object", "start again")
            assert isinstance(response, pb.PutObjectResponse)
            return response
        except grpc.aio.AioRpcError as error:
            raise call_failed(await ending.status(error), self._buckets.connection.address) from None
        finally:
            self._source.interrupt()
            call.cancel()
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
            reader.shutdown()

    async def _send(self, call: Any, reader: ThreadPoolExecutor, place: str) -> None:
        """Everything up to the commit; why a stream broke is for the one to say who reads its answer."""
        size = self._source.size_bytes if isinstance(self._source, FileSource) else None
        ahead: deque[Future[Step | None]] = deque()
        sent = 0
        try:
            await call.write(self._buckets.put_header(place, size))
            while True:
                while len(ahead) < READ_AHEAD_STEPS:
                    ahead.append(reader.submit(self._read_step))
                step = await asyncio.wrap_future(ahead.popleft())
                if step is None:
                    break
                await call.write(_message(step))
                sent = step.end
                reader.submit(self._source.forget, sent)
                self._on_progress(sent)
            self._source.check_unchanged()
            sha256 = self._expected or self._hasher.hexdigest()
            commit = pb.PutObjectRequest.Commit(size_bytes=sent, expected_sha256=sha256)
            await call.write(pb.PutObjectRequest(commit=commit))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return
        finally:
            for read in ahead:
                read.cancel()

    def _read_step(self) -> Step | None:
        """In the reading thread: the next step, hashed."""
        step = self._source.next_step()
        if step is None:
            return None
        if step.data is not None:
            self._hasher.update(step.data)
        else:
            for start in range(0, step.length, len(ZEROS)):
                self._hasher.update(memoryview(ZEROS)[: min(len(ZEROS), step.length - start)])
        return step


def _message(step: Step) -> pb.PutObjectRequest | wire.FileBytes:
    if step.data is None:
        return pb.PutObjectRequest(zero_length=step.length)
    return wire.FileBytes([step.data])
