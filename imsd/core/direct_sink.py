"""An upload whose bytes are a disk's blocks (RAW, ISO): they are chunked as they are."""

from __future__ import annotations

from typing import Self

from imsd.chunks.ingest import UNCUT
from imsd.chunks.ingest_state import IngestState
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import Buffer
from imsd.formats.raw import SECTOR_BYTES
from imsd.metadata.records import UploadRecord

from .chunked_sink import DiskSink, Kept, SealedDisk
from .file_blocks import FileRange
from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import require_digest


class DirectSink(DiskSink):
    """The ingest's position is the file's, and so is its tree digest."""

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        saved = progress.record.tree_state
        state = IngestState.from_bytes(saved) if saved else None
        return await cls(runtime, progress, state)._resumed(state)

    async def write(self, data: Buffer) -> None:
        await self._reserve(len(data))
        self._is_saved = False
        await self._ingest.write(data)
        self.unsaved_bytes += len(data)
        self._position += len(data)

    async def write_zeros(self, length: int) -> None:
        self._is_saved = False
        await self._ingest.write_zeros(length)
        self._position += length

    async def copy(self, range_: FileRange) -> None:
        await self._reserve(range_.data_bytes)
        self._is_saved = False
        await self._ingest.copy_range(range_.blocks, range_.end)
        self.unsaved_bytes += range_.data_bytes
        self._position = range_.end

    def _kept(self) -> Kept:
        return lambda state: (state.end, state.to_bytes())

    async def seal(self, digest: str) -> UploadRecord:
        size = self._progress.record.committed_offset
        state = await self._ingest.checkpoint()
        actual = _file_digest(state)
        require_digest(digest, actual)
        # A disk has whole sectors, whatever the size of its file.
        padding = -size % SECTOR_BYTES
        await self._ingest.write(bytes(padding))
        result = await self._ingest.finish(size + padding)
        return await self._seal(actual, SealedDisk(result))


class PlainSink(DirectSink):
    """For a fast import: the disk is not cut by its content."""

    cutting = UNCUT


def _file_digest(state: IngestState) -> str:
    hasher = TreeHasher.from_state(state.tree)
    hasher.update(state.undecided)
    return hasher.digest()
