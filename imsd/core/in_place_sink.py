"""A file of this machine in any format, read where it lies: never staged, its disk becomes chunks at once.

How far the disk has come is told in bytes of the file, in proportion. A checkpoint keeps where the ingest
stands, for the same unchanged file; nothing counts as committed before the whole disk is stored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Coroutine, Iterator
from typing import Any, Self

from imsd.chunks.ingest_state import IngestState
from imsd.chunks.layout import BLOCK_BYTES
from imsd.contract import Buffer, ByteRange, InvalidRequest
from imsd.formats.reader import OpenedImage
from imsd.formats.source import ByteSource
from imsd.metadata.records import UploadRecord

from .chunked_sink import DiskSink, Kept, SealedDisk
from .data_bound import BoundedDisk
from .file_blocks import FileBlocks, FileRange
from .file_digest import digest_of
from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import UploadSink, require_digest

# magic; device, inode, size and modification time of the file; the state of the ingest follows.
_STATE = struct.Struct("<8s4q")
_MAGIC = b"imsdplc1"
# magic; then JSON: the file's digest, and what `SealedDisk` keeps.
_FINISHED = b"imsdfin1"


class FileBytes(ByteSource):
    """The bytes of an open file that nobody may change meanwhile."""

    def __init__(self, file: FileBlocks) -> None:
        self._file = file
        self.size_bytes = file.file_bytes

    def _read(self, offset: int, length: int) -> memoryview:
        return self._file.content(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        self._file.read_into(offset, buffer)

    def data_ranges(self) -> Iterator[ByteRange]:
        """Raises FailedPrecondition when the file is not what it was."""
        return self._file.data_ranges()


def is_in_place(state: bytes) -> bool:
    """Whether an upload's row keeps the state of a file that is read where it lies."""
    return state.startswith(_MAGIC)


def is_finished(state: bytes) -> bool:
    """Whether an upload's row keeps the disk of a file that was read to its end."""
    return state.startswith(_FINISHED)


class InPlaceSink(DiskSink):
    """What comes of the file says only how far to go on."""

    def __init__(
        self,
        runtime: Runtime,
        progress: UploadProgress,
        file: FileBlocks,
        image: OpenedImage,
        state: IngestState | None,
    ) -> None:
        super().__init__(runtime, progress, state)
        self._file = file
        self._image = image
        self._blocks = BoundedDisk(image.blocks, file.file_bytes)

    @classmethod
    async def begin(
        cls, runtime: Runtime, progress: UploadProgress, file: FileBlocks, image: OpenedImage
    ) -> Self:
        """Go on with the same file, else from its start. ``image``: the disk in the file."""
        state = _kept_state(progress.record.tree_state, file)
        if state is None and progress.record.tree_state:
            await progress.forget_parts()
        return await cls(runtime, progress, file, image, state)._resumed(state)

    async def write(self, data: Buffer) -> None:
        await self._go_on(len(data), len(data))

    async def write_zeros(self, length: int) -> None:
        await self._go_on(length, 0)

    async def copy(self, range_: FileRange) -> None:
        await self._go_on(range_.end - range_.start, range_.data_bytes)

    async def _go_on(self, length: int, data_bytes: int) -> None:
        """Store as much of the disk as ``length`` bytes more are of the file."""
        await self._reserve(data_bytes)
        position = self._position + length
        blocks, file_bytes = self._blocks, self._file.file_bytes
        end = blocks.size_bytes
        if position < file_bytes:
            end = end * position // file_bytes // BLOCK_BYTES * BLOCK_BYTES
        while end > self._ingest.position:
            self._is_saved = False
            await self._ingest.copy_range(blocks, end, is_enough=self._has_many_chunks)
            if self._has_many_chunks():
                await self.begin_checkpoint()
        # Not before: a checkpoint at the end of the file is the last one.
        self._position = position
        self.unsaved_bytes += data_bytes

    def _save(self) -> Coroutine[Any, Any, None] | None:
        if self._position < self._file.file_bytes:
            return super()._save()
        if self._progress.record.committed_offset == self._file.file_bytes:
            return None
        return self._finish()

    def _kept(self) -> Kept:
        identity = _STATE.pack(_MAGIC, *self._file.identity)
        return lambda state: (0, identity + state.to_bytes())

    async def _finish(self) -> None:
        """The whole disk is in: make it durable, and the upload complete."""
        pool = self._runtime.pool
        result = await self._ingest.finish(self._blocks.size_bytes)
        disk = SealedDisk(result, self._image.format_name, self._image.findings)
        digest = await digest_of(pool, FileBytes(self._file), lambda done: None)
        part = await self._write_segment(self._segment.take(), result.size_bytes, result.new_size)
        # The rest when it is recorded: if it is not, `_drop` gives it back.
        reserved, self._room_bytes = self._reserved_bytes, 0
        await self._progress.advance(
            part=part,
            committed_offset=self._file.file_bytes,
            tree_state=_FINISHED + json.dumps([digest, disk.to_bytes().decode()]).encode(),
            is_direct=True,
            reserved_bytes=reserved,
        )
        self._reserved_bytes -= reserved

    async def seal(self, digest: str) -> UploadRecord:
        raise AssertionError("a file that was read to its end is sealed by FinishedSink")


class FinishedSink(UploadSink):
    """The upload of a file that was read to its end: only its commit is missing."""

    def __init__(self, runtime: Runtime, progress: UploadProgress) -> None:
        super().__init__(runtime)
        self._progress = progress

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        return cls(runtime, progress)

    async def write(self, data: Buffer) -> None:
        raise self._too_long()

    async def write_zeros(self, length: int) -> None:
        raise self._too_long()

    def _save(self) -> Coroutine[Any, Any, None] | None:
        return None

    async def seal(self, digest: str) -> UploadRecord:
        actual, disk = json.loads(self._progress.record.tree_state.removeprefix(_FINISHED))
        require_digest(digest, actual)
        return await self._progress.seal(actual, disk.encode())

    async def _drop(self) -> None:
        return None

    def _too_long(self) -> InvalidRequest:
        return InvalidRequest(
            f"the file that was handed over has {self._progress.record.committed_offset} bytes, no more",
            reason="UPLOAD_TOO_LONG",
            hint="commit the upload; a file that grew goes into a new one",
        )


def _kept_state(saved: bytes, file: FileBlocks) -> IngestState | None:
    """Where the ingest of the same file stood; None when it was another, or is changed."""
    if not is_in_place(saved):
        return None
    _, *identity = _STATE.unpack_from(saved)
    return IngestState.from_bytes(saved[_STATE.size :]) if tuple(identity) == file.identity else None
