"""An upload in a format that is read in one forward pass: decoded while it arrives, and never staged."""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from imsd.chunks.ingest import DiskIngest
from imsd.chunks.ingest_state import IngestState
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.record_ingest import RecordIngest
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import Buffer, ImageRefused
from imsd.formats.detect import TAIL_BYTES, check_tail
from imsd.formats.output import Zeros
from imsd.formats.registry import DECODERS, RECORD_DECODERS
from imsd.formats.stream_decoder import Step, StreamDecoder
from imsd.metadata.records import UploadRecord

from .chunked_sink import ChunkedSink, DiskSink, IngestT, Kept, SealedDisk
from .limits import MAX_WRITE_BYTES
from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import require_digest

# magic; lengths of the format's name, of the decoder's state, of the file hasher's, of the file's tail, of
# the pending bytes and of the ingest's state, which follow in this order.
_STATE = struct.Struct("<8s6I")
_MAGIC = b"imsddec1"
_ZEROS = bytes(MAX_WRITE_BYTES)


@dataclass(frozen=True, slots=True)
class DecodedState:
    """Where a decoded upload stands: all that goes on from the decoder's position."""

    format_name: str
    decoder: bytes
    file_hasher: bytes
    tail: bytes
    pending: bytes
    ingest: bytes

    def to_bytes(self) -> bytes:
        name = self.format_name.encode()
        fields = (name, self.decoder, self.file_hasher, self.tail, self.pending, self.ingest)
        return _STATE.pack(_MAGIC, *map(len, fields)) + b"".join(fields)

    @classmethod
    def from_bytes(cls, content: bytes) -> DecodedState:
        """Raises ValueError if ``content`` is not what `to_bytes` returned."""
        if not is_decoded(content):
            raise ValueError("the state of a decoded upload is of another kind")
        _, *lengths = _STATE.unpack_from(content)
        fields, position = [], _STATE.size
        for length in lengths:
            fields.append(content[position : position + length])
            position += length
        if position != len(content):
            raise ValueError("the state of a decoded upload is damaged")
        return cls(fields[0].decode(), *fields[1:])


def is_decoded(state: bytes) -> bool:
    """Whether an upload's row keeps the state of a decoded one."""
    return len(state) >= _STATE.size and state.startswith(_MAGIC)


class DecoderSink(ChunkedSink[IngestT]):
    """Bytes that make no whole unit of the format yet are ``_pending``. They may be megabytes, so they are
    kept when all is to be durable, and not at every checkpoint.

    ``_hasher`` and ``_tail`` (the file's last bytes) stand where the decoder does.
    """

    # By the name of the format.
    decoders: ClassVar[Mapping[str, type[StreamDecoder]]]

    def __init__(
        self,
        runtime: Runtime,
        progress: UploadProgress,
        decoder: StreamDecoder,
        state: IngestState | None = None,
    ) -> None:
        super().__init__(runtime, progress, state)
        self._decoder = decoder
        self._hasher = TreeHasher()
        self._tail = b""
        self._pending = bytearray()
        self._keeps_pending = False

    @classmethod
    async def begin(cls, runtime: Runtime, progress: UploadProgress, format_name: str) -> Self:
        return cls(runtime, progress, cls.decoders[format_name].begin(runtime.limits.max_virtual_size_bytes))

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        saved = DecodedState.from_bytes(progress.record.tree_state)
        ingest = IngestState.from_bytes(saved.ingest)
        limit = runtime.limits.max_virtual_size_bytes
        decoder = cls.decoders[saved.format_name].resume(saved.decoder, limit)
        sink = cls(runtime, progress, decoder, ingest)
        sink._hasher, sink._tail = TreeHasher.from_state(saved.file_hasher), saved.tail
        sink._pending += saved.pending
        return await sink._resumed(ingest)

    async def write(self, data: Buffer) -> None:
        await self._reserve(len(data))
        self._is_saved = False
        self._pending += data
        self.unsaved_bytes += len(data)
        self._position += len(data)
        while self._pending and await self._take_unit():
            if self._has_many_chunks():
                await self.begin_checkpoint()
                self._is_saved = False

    async def _take_unit(self) -> bool:
        """Decode one unit and give it to the ingest; False when more bytes are needed first."""
        async with self._runtime.pool.decoding:
            step = await self._runtime.pool.run(self._step)
            del self._pending[: step.consumed]
            await self._give(step)
        return step.consumed > 0

    @abstractmethod
    async def _give(self, step: Step) -> None:
        """Give the ingest what a unit gave."""

    @abstractmethod
    async def _give_zeros(self, length: int) -> None: ...

    async def write_zeros(self, length: int) -> None:
        # No format has long runs of zeros: a long one is refused before it ends.
        while length:
            count = min(length, len(_ZEROS))
            await self.write(_ZEROS[:count])
            length -= count

    async def checkpoint(self) -> None:
        if not self._pending:
            await super().checkpoint()
            return
        # Few at a time: the state of each is megabytes, of which there are several copies on their way.
        async with self._runtime.pool.decoding:
            self._is_saved, self._keeps_pending = False, True
            try:
                await super().checkpoint()
            finally:
                self._keeps_pending = False

    def _step(self) -> Step:
        """One unit of the file, in a thread of the pool."""
        with memoryview(self._pending) as view:
            step = self._decoder.step(view)
            if step.consumed:
                done = view[: step.consumed]
                self._hasher.update(done)
                self._tail = (self._tail + bytes(done[-TAIL_BYTES:]))[-TAIL_BYTES:]
                done.release()
        return step

    def _kept(self) -> Kept:
        format_name, position, decoder = self._decoder.name, self._decoder.position, self._decoder.state()
        hasher, tail = self._hasher.state(), self._tail
        pending = bytes(self._pending) if self._keeps_pending else b""

        def kept(state: IngestState) -> tuple[int, bytes]:
            whole = DecodedState(format_name, decoder, hasher, tail, pending, state.to_bytes())
            return position + len(pending), whole.to_bytes()

        return kept

    async def seal(self, digest: str) -> UploadRecord:
        disk = self._decoder.finish(self._progress.record.committed_offset)
        actual = self._hasher.digest()
        require_digest(digest, actual)
        check_tail(self._tail, self._decoder.name)
        if disk.zeros_at_end:
            await self._give_zeros(disk.zeros_at_end)
        if self._ingest.position != disk.size_bytes:
            raise ImageRefused(
                f"the {self._decoder.name} file has {self._ingest.position} bytes of its {disk.size_bytes}",
                reason="IMAGE_TRUNCATED",
                hint="copy the file again from its origin",
            )
        result = await self._ingest.finish(disk.size_bytes)
        return await self._seal(actual, SealedDisk(result, self._decoder.name, disk.findings))


class DecodedSink(DecoderSink[DiskIngest], DiskSink):
    """The disk is cut by content, like any other."""

    decoders = DECODERS

    async def _give(self, step: Step) -> None:
        for output in step.outputs:
            if isinstance(output, Zeros):
                await self._ingest.write_zeros(output.length)
            else:
                await self._ingest.write(output)

    async def _give_zeros(self, length: int) -> None:
        await self._ingest.write_zeros(length)


class RecordSink(DecoderSink[RecordIngest]):
    """For a fast import: the records of the file are kept as they come."""

    decoders = RECORD_DECODERS

    def _begin_ingest(self, target: IngestTarget, state: IngestState | None) -> RecordIngest:
        return RecordIngest(self._runtime.pool, target, self._segment, start=state)

    async def _give(self, step: Step) -> None:
        await give_records(self._ingest, step)

    async def _give_zeros(self, length: int) -> None:
        await self._ingest.write_zeros(length)


async def give_records(ingest: RecordIngest, step: Step) -> None:
    """Give ``ingest`` what a unit gave: zeros, then perhaps a record."""
    for output in step.outputs:
        assert isinstance(output, Zeros), "a decoder of records gives records and zeros"
        await ingest.write_zeros(output.length)
    if step.record is not None:
        await ingest.add(step.record)
