"""One writer of one upload: bytes in, and the offset that would survive a crash.

The format, declared or recognised from the first bytes, decides where the bytes go: a disk whose blocks
are the file's bytes (RAW, ISO), or that can be decoded in one pass, becomes chunks at once; anything else,
and what was compressed whole, is staged until its job reads it. A disk image that a client of this machine
handed over is read where it lies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Self, TypeVar

from imsd.contract import Buffer, ImsError, InvalidRequest, Unavailable, settle
from imsd.formats.detect import (
    HEAD_BYTES,
    SIGNED_AT_END,
    ambiguous,
    head_formats,
    open_image,
    require_declared,
    wrapper_at,
)
from imsd.formats.reader import OpenedImage
from imsd.formats.registry import READERS, can_decode, is_streamable
from imsd.metadata.records import UploadRecord

from . import fast_import, limits
from .decoded_sink import DecodedSink, is_decoded
from .direct_sink import DirectSink
from .file_blocks import BLOCK_BYTES, FileBlocks, FileRange
from .file_limits import require_file_size
from .in_place_sink import FileBytes, FinishedSink, InPlaceSink, is_finished, is_in_place
from .keys.encryption import require_no_disc
from .runtime import Runtime
from .staged_sink import StagedSink
from .upload_progress import UploadProgress, taken_over
from .upload_sink import CLOSING_SECONDS, UploadSink

RequestT = TypeVar("RequestT")

# As much of a file as tells its format, in whole blocks.
HEAD_BLOCKS_BYTES = -(-HEAD_BYTES // BLOCK_BYTES) * BLOCK_BYTES

# While a part is made durable, this share of one (a quarter) may come.
OVERLAP = 4

# How long a newer writer waits for an older one.
EVICTION_SECONDS = 10.0

# A writer that sends nothing for so long gives its place to one that waits.
IDLE_SECONDS = 30.0


class UploadSession:
    """Enter it to write; leaving it drops what was not made durable."""

    def __init__(self, runtime: Runtime, progress: UploadProgress) -> None:
        self._runtime = runtime
        self._progress = progress
        self._sink: UploadSink | None = None
        self._head = bytearray()
        self._file: FileBlocks | None = None  # that was handed over
        self._received = progress.record.committed_offset
        self._closed = asyncio.Event()
        self._ends_with: ImsError | None = None
        self._waiting: asyncio.Timeout | None = None  # for the next message
        self._waiting_since = 0.0
        self._closing_seconds = CLOSING_SECONDS  # for a checkpoint that runs at the end

    async def __aenter__(self) -> Self:
        record = self._progress.record
        if record.is_direct is not None and not is_in_place(record.tree_state):
            self._sink = await open_sink(self._runtime, self._progress)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sink:
            # In a task of its own: grpc.aio cancels a handler again while it cleans up.
            await settle(asyncio.create_task(self._sink.close(self._closing_seconds)))

    def has_closed(self) -> None:
        """Nothing of this session runs any more, whether it was entered or not."""
        self._closed.set()

    @property
    def record(self) -> UploadRecord:
        """The upload as this session has it."""
        return self._progress.record

    @property
    def fence(self) -> int:
        return self._progress.record.fence

    @property
    def committed_offset(self) -> int:
        return self._progress.record.committed_offset

    @property
    def received_offset(self) -> int:
        return self._received

    async def evict(self, closing_seconds: float = 0.0) -> None:
        """End this session because a newer writer takes over, and wait until it has let go.

        Not for ever: the store it waits for may hang, and its fence keeps it from doing harm. What it stores
        counts for nothing then; where no fence grew, it has ``closing_seconds`` to finish a checkpoint.
        """
        self._ends_with = taken_over()
        self._closing_seconds = closing_seconds
        self._stop_waiting()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), EVICTION_SECONDS)

    async def steps(
        self, requests: AsyncIterator[RequestT], is_place_wanted: Callable[[], bool]
    ) -> AsyncGenerator[RequestT, None]:
        """The writer's messages, until they end or the session is evicted.

        Raises Conflict (UPLOAD_TAKEN_OVER), Unavailable when the writer sends nothing while others wait.
        """
        watching = asyncio.create_task(self._watch(is_place_wanted))
        try:
            while (request := await self._next(requests)) is not None:
                yield request
        finally:
            watching.cancel()

    async def _next(self, requests: AsyncIterator[RequestT]) -> RequestT | None:
        if self._ends_with:
            raise self._ends_with
        try:
            async with asyncio.timeout(None) as self._waiting:
                self._waiting_since = asyncio.get_running_loop().time()
                return await anext(requests, None)
        except TimeoutError:
            assert self._ends_with
            raise self._ends_with from None
        finally:
            self._waiting = None

    async def _watch(self, is_place_wanted: Callable[[], bool]) -> None:
        """End the session of a writer that sends nothing while others wait for its place."""
        loop = asyncio.get_running_loop()
        while not self._ends_with:
            silent = loop.time() - self._waiting_since if self._waiting else 0.0
            if silent >= IDLE_SECONDS and is_place_wanted():
                self._ends_with = Unavailable(
                    f"the writer has sent nothing for {IDLE_SECONDS:.0f} seconds, and others wait",
                    hint="go on later from the committed offset",
                )
                self._stop_waiting()
            await asyncio.sleep(max(IDLE_SECONDS - silent, IDLE_SECONDS / 10))

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def write(self, data: Buffer) -> None:
        """Take the next bytes of the file."""
        if not 1 <= len(data) <= limits.MAX_WRITE_BYTES:
            raise InvalidRequest(
                f"a message has 1 to {limits.MAX_WRITE_BYTES} bytes of data, not {len(data)}", field="data"
            )
        self._count(len(data))
        await self._make_room(len(data))
        if self._sink is None:
            self._head += data
            if len(self._head) < HEAD_BYTES:
                return
            await self._decide()
        else:
            await self._sink.write(data)
        await self._checkpoint_when_due()

    async def write_zeros(self, length: int) -> None:
        """Take the next ``length`` bytes of the file, all zero."""
        if length < 1:
            raise InvalidRequest("zero_length must be 1 or more", field="zero_length")
        self._count(length)
        if self._sink is None:
            missing = min(length, HEAD_BYTES - len(self._head))
            self._head += bytes(missing)
            length -= missing
            if len(self._head) < HEAD_BYTES:
                return
            await self._decide()
        assert self._sink is not None
        if length:
            await self._sink.write_zeros(length)
        await self._checkpoint_when_due()

    async def copy(self, range_: FileRange) -> None:
        """Take a range of a file that was handed over."""
        if self._sink is None:  # the format is decided by the first bytes
            self._file = range_.blocks
            length = min(range_.end - range_.start, HEAD_BLOCKS_BYTES)
            await self.write(await self._runtime.pool.run(range_.blocks.content, range_.start, length))
            range_ = range_._replace(start=range_.start + length)
        if range_.start < range_.end:
            assert self._sink is not None
            self._count(range_.end - range_.start)
            await self._make_room(range_.data_bytes)
            await self._sink.copy(range_)
            await self._checkpoint_when_due()

    async def flush(self) -> None:
        """Make everything received durable."""
        if self._sink is None and self._head:
            await self._decide()
        if self._sink:
            await self._sink.checkpoint()

    def _count(self, length: int) -> None:
        """Bound the file before anything is kept of the bytes."""
        size = self._progress.record.size_bytes
        if size and self._received + length > size:
            raise InvalidRequest(
                f"more than the declared {size} bytes were sent",
                reason="UPLOAD_TOO_LONG",
                hint="declare the size of the file, or 0 when it is not known",
            )
        is_fast = self._progress.record.is_fast
        require_file_size(self._received + length, self._runtime.limits, is_fast=is_fast)
        self._received += length

    async def _decide(self) -> None:
        head, record = bytes(self._head), self._progress.record
        found = begins_as(head, record.disk_format)
        require_no_disc(found, is_encrypted=bool(record.image_id))
        if record.is_fast:
            self._sink = await fast_import.begin_sink(self._runtime, self._progress, found)
            await self._sink.write(head)
            self._head.clear()
            return
        # An expected SHA-256 is made of the file, read again by the job: it is staged.
        may_open = found in READERS and not record.expected_sha256
        image = await self._open_file() if self._file and may_open else None
        if self._file and image and not is_streamable(image.format_name):
            self._sink = await InPlaceSink.begin(self._runtime, self._progress, self._file, image)
            await self._sink.write(head)
            self._head.clear()
            return
        if record.tree_state:  # of a file that was read in place, and now is sent
            await self._progress.forget_parts()
        if is_streamable(found):
            self._sink = await DirectSink.open(self._runtime, self._progress)
        elif can_decode(found, head) and not record.expected_sha256:
            self._sink = await DecodedSink.begin(self._runtime, self._progress, found)
        else:
            self._sink = await StagedSink.open(self._runtime, self._progress)
        await self._sink.write(head)
        self._head.clear()

    async def _open_file(self) -> OpenedImage:
        """The disk in the file that was handed over, all of which is there."""
        assert self._file is not None
        declared, limit = self._progress.record.disk_format, self._runtime.limits.max_virtual_size_bytes
        return await self._runtime.pool.run(open_image, FileBytes(self._file), declared or None, limit)

    async def _make_room(self, length: int) -> None:
        """Wait until no more than a part would be lost when ``length`` bytes more have come."""
        sink, part_bytes = self._sink, self._runtime.limits.upload_part_bytes
        if sink is None:
            return
        if sink.unsaved_bytes + sink.saving_bytes + length > part_bytes:
            await sink.saved()
        if sink.unsaved_bytes + length > part_bytes:
            await sink.checkpoint()

    async def _checkpoint_when_due(self) -> None:
        """Make a part durable while the next bytes come."""
        sink, part_bytes = self._sink, self._runtime.limits.upload_part_bytes
        assert sink is not None
        if sink.has_saved:
            await sink.saved()
        if sink.unsaved_bytes >= part_bytes - part_bytes // OVERLAP:
            await sink.begin_checkpoint()


def begins_as(head: bytes, declared: str) -> str:
    """The format of a file by its first bytes, if it is not another than declared.

    Of a file that was compressed whole it is the wrapper's name, and its job sees what is inside.
    Raises ImageRefused (FORMAT_AMBIGUOUS, FORMAT_MISMATCH).
    """
    if wrapper := wrapper_at(head, declared):
        return wrapper
    formats = head_formats(head)
    if len(formats) > 1:
        raise ambiguous(formats)
    found = formats[0] if formats else "raw"
    if formats or declared not in SIGNED_AT_END:
        require_declared(declared, found)
    return found


async def open_sink(runtime: Runtime, progress: UploadProgress) -> UploadSink:
    """Go on where the durable state of an upload ends, in the way that was decided."""
    record = progress.record
    if not record.is_direct:
        return await StagedSink.open(runtime, progress)
    if record.is_fast:
        return await fast_import.open_sink(runtime, progress)
    sink_type: type[DirectSink | DecodedSink | FinishedSink] = DirectSink
    if is_decoded(record.tree_state):
        sink_type = DecodedSink
    elif is_finished(record.tree_state):
        sink_type = FinishedSink
    return await sink_type.open(runtime, progress)


async def seal_upload(runtime: Runtime, record: UploadRecord, digest: str) -> UploadRecord:
    """Make a complete upload COMMITTED, if its bytes have the digest the client vouches for.

    Raises InvalidRequest (DIGEST_MISMATCH), Conflict.
    """
    progress = await UploadProgress.load(runtime, record)
    sink = await open_sink(runtime, progress)
    try:
        return await sink.seal(digest)
    finally:
        await settle(asyncio.create_task(sink.close()))
