"""Sending the bytes of an upload: from its committed offset, through broken connections, to the end.

::

    reading thread --steps--> sender --messages--> daemon --committed offset--> receiver
         '-- hashes what it reads                               '-- the source forgets

A thread reads a few steps ahead. When the stream breaks, the daemon is asked for the committed offset
and sending goes on there; only losing the daemon for long, or a refusal, ends it.

A daemon on the same machine gets the open file instead and reads it itself, see `hand_over`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc.aio

from imsd import wire
from imsd.v1 import upload_pb2 as pb

from .backoff import PATIENCE_SECONDS
from .call_ending import CallEnding
from .errors import CallFailed, call_failed
from .hand_over import hand_over
from .upload_source import FileSource, Step, UploadSource
from .uploads import UploadCalls

READ_AHEAD_STEPS = 3

# The daemon lost a chunk between the question and the writing: its image was deleted, or it is damaged.
CHUNK_UNKNOWN = "CHUNK_UNKNOWN"

# How long the daemon may take to end a stream when it has all bytes, which it says before.
ENDING_SECONDS = 5.0


class ByteHasher(Protocol):
    """The incremental tree digest, for example ``imsd.chunks.tree_digest.TreeHasher``."""

    @property
    def position(self) -> int: ...

    def update(self, piece: bytes, /) -> None: ...

    def zeros(self, length: int, /) -> None: ...

    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class SentBytes:
    """A file that was sent whole: its size, and the tree digest of its bytes or nothing."""

    size_bytes: int
    digest: str


class UploadSender:
    """Sends ``source`` to one open upload; use it once.

    ``on_progress`` gets the offset reached. ``new_hasher`` makes the hasher of the tree digest; without
    it the bytes are vouched for by their number only, as are those of a file that is handed over from its
    first byte on, which only ``may_hand_over`` allows.
    """

    def __init__(
        self,
        uploads: UploadCalls,
        source: UploadSource,
        on_progress: Callable[[int], None] = lambda offset: None,
        new_hasher: Callable[[], ByteHasher] | None = None,
        *,
        may_hand_over: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._uploads = uploads
        self._source = source
        self._on_progress = on_progress
        self._new_hasher = None if source.digest else new_hasher
        self._hasher = self._new_hasher() if self._new_hasher else None
        self._file = source.regular_file if may_hand_over else None
        self._token = b""  # of the file, handed over for the next stream
        self._backoff = uploads.connection.backoff(patience_seconds)
        self._committed = 0
        self._end: int | None = None

    async def send(self, upload: pb.Upload) -> SentBytes:
        """Send everything from the committed offset of ``upload`` on, until all of it is durable.

        Raises `CallFailed`, `LocalFileFailed`.
        """
        reader = ThreadPoolExecutor(1, "imsd-read")
        try:
            digest = self._begin_digest(upload.committed_offset)
            try:
                await self._try_hand_over()
                size = await self._send_through_breaks(reader, upload)
                text = await digest if digest else self._hasher.digest() if self._hasher else ""
            except BaseException:
                self._source.interrupt()
                if digest:
                    digest.cancel()
                    await asyncio.gather(digest, return_exceptions=True)
                raise
        finally:
            reader.shutdown()  # what it still reads ends soon: all was read, or it was interrupted
        self._source.check_unchanged()
        return SentBytes(size, text or self._source.digest)

    def _begin_digest(self, offset: int) -> asyncio.Task[str] | None:
        """When sending does not start with the first byte, the file is hashed on its own meanwhile.

        Also if the daemon reads the rest itself: what came before may be of another file.
        """
        if not offset or not self._new_hasher:
            return None
        self._hasher = None
        if not isinstance(self._source, FileSource):
            return None
        return asyncio.create_task(_digest_of_file(self._source.another(), self._new_hasher()))

    async def _send_through_breaks(self, reader: ThreadPoolExecutor, upload: pb.Upload) -> int:
        offset = self._committed = upload.committed_offset
        while True:
            try:
                size = await self._send_once(reader, upload.id, offset)
                self._backoff.succeeded()
                return size
            except CallFailed as error:
                broken = error
                if error.reason == CHUNK_UNKNOWN:
                    await asyncio.wrap_future(reader.submit(self._source.forget_chunks))
            while True:
                if not _may_go_on(broken) or not await self._backoff.wait(broken):
                    raise broken
                try:
                    offset = (await self._uploads.get(upload.id)).committed_offset
                    self._backoff.reached()
                    break
                except CallFailed as error:
                    broken = error

    async def _send_once(self, reader: ThreadPoolExecutor, upload_id: str, offset: int) -> int:
        """One stream. Returns the number of bytes of the file once all of them are durable."""
        token, self._token = self._token or await self._hand_over(), b""
        call = self._uploads.open_writer()
        ending = CallEnding(call)
        try:
            if token:
                await call.write(self._uploads.header(upload_id, offset, token))
                size = await self._follow(call)
            else:
                size = await self._exchange(call, reader, upload_id, offset)
            await _end(call)
            return size
        except grpc.aio.AioRpcError as error:
            raise call_failed(await ending.status(error), self._uploads.connection.address) from None
        finally:
            call.cancel()

    async def _try_hand_over(self) -> None:
        """Decide, once, whether the daemon reads the file: what it reads is not hashed here."""
        if self._file is None:
            return
        token = await asyncio.to_thread(hand_over, self._uploads.connection.address, self._file)
        if token is None:
            self._file = None
        else:
            self._token, self._hasher = token, None

    async def _hand_over(self) -> bytes:
        """The token of the file for one stream; empty when its bytes are sent. Raises `CallFailed`."""
        if self._file is None:
            return b""
        token = await asyncio.to_thread(hand_over, self._uploads.connection.address, self._file)
        if token is None:
            raise CallFailed("UNAVAILABLE", "the daemon does not take the file again", "start again")
        return token

    async def _follow(self, call: Any) -> int:
        """Until the daemon has read all of the file that was handed over."""
        while True:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                self._source.check_unchanged()  # a file that was cut ends sooner
                raise CallFailed("UNAVAILABLE", "the daemon closed the stream of the upload")
            self._on_progress(answer.received_offset)
            if answer.committed_offset > self._committed:
                self._committed = answer.committed_offset
                self._backoff.succeeded()
            if answer.committed_offset == self._source.size_bytes:
                return self._source.size_bytes

    async def _exchange(self, call: Any, reader: ThreadPoolExecutor, upload_id: str, offset: int) -> int:
        """Send and receive at once; raises the failure of this side before that of the stream."""
        self._end = None
        tasks = [
            asyncio.create_task(self._send_steps(call, reader, upload_id, offset)),
            asyncio.create_task(self._receive_offsets(call, reader)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        assert self._end is not None
        return self._end

    async def _send_steps(self, call: Any, reader: ThreadPoolExecutor, upload_id: str, offset: int) -> None:
        ahead: deque[Future[Step | None]] = deque()
        try:
            # Reads of a broken stream that still wait or run come before this in the one thread.
            await asyncio.wrap_future(reader.submit(self._source.seek, offset))
            await call.write(self._uploads.header(upload_id, offset))
            while True:
                while len(ahead) < READ_AHEAD_STEPS:
                    ahead.append(reader.submit(self._read_step))
                step = await asyncio.wrap_future(ahead.popleft())
                if step is None:
                    break
                await call.write(_message(step))
                offset = step.end
                self._on_progress(offset)
            self._end = offset
            await call.write(pb.WriteUploadRequest(flush=pb.WriteUploadRequest.Flush()))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return  # the stream broke: the receiver says why
        finally:
            for read in ahead:
                read.cancel()

    async def _receive_offsets(self, call: Any, reader: ThreadPoolExecutor) -> None:
        """Until everything is durable."""
        while True:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise CallFailed("UNAVAILABLE", "the daemon closed the stream of the upload")
            if answer.committed_offset > self._committed:
                self._committed = answer.committed_offset
                self._backoff.succeeded()
                reader.submit(self._source.forget, self._committed)
            if answer.committed_offset == self._end:
                return

    def _read_step(self) -> Step | None:
        """In the reading thread: the next step, hashed."""
        step = self._source.next_step()
        if step is not None and self._hasher is not None:
            _hash(self._hasher, step)
        return step


async def _end(call: Any) -> None:
    """End a stream whose bytes are all durable: one that is cut off is to the daemon a call that failed.

    Nothing depends on it any more, so what goes wrong is no failure of the upload.
    """
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError, TimeoutError):
        async with asyncio.timeout(ENDING_SECONDS):
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass


def _message(step: Step) -> pb.WriteUploadRequest | wire.FileBytes:
    if step.chunks:
        return pb.WriteUploadRequest(known=pb.WriteUploadRequest.KnownChunks(chunks=step.chunks))
    if step.data is None:
        return pb.WriteUploadRequest(zero_length=step.length)
    return wire.FileBytes([step.data])


def _hash(hasher: ByteHasher, step: Step) -> None:
    """Hash what is new in ``step``: after a break, steps come again."""
    known = min(max(hasher.position - step.start, 0), step.length)
    if step.data is None:
        hasher.zeros(step.length - known)
    else:
        hasher.update(step.data[known:] if known else step.data)


async def _digest_of_file(source: FileSource, hasher: ByteHasher) -> str:
    """The tree digest of a whole file, computed in a thread of its own."""

    def digest() -> str:
        while step := source.next_step():
            _hash(hasher, step)
        return hasher.digest()

    future = asyncio.get_running_loop().run_in_executor(None, digest)
    future.add_done_callback(lambda done: done.exception())  # or asyncio logs it as lost
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        source.interrupt()
        await asyncio.wait([future])
        raise


def _may_go_on(error: CallFailed) -> bool:
    # The older stream may have made more bytes durable after the daemon was asked for the offset.
    # A daemon that was started again knows no file that was handed over before.
    return error.is_transient or error.reason in (
        "UPLOAD_OFFSET_MISMATCH",
        "FILE_TOKEN_UNKNOWN",
        CHUNK_UNKNOWN,
    )
