"""An upload whose bytes are a disk's blocks: they become chunks while they arrive.

What is durable is told by small segments, one a checkpoint: the list of the chunks stored since the one
before. The job that makes the image only puts the segments together to a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from typing import Any, Self

from imsd.chunks.entry import ChunkEntry
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.ingest_state import IngestResult, IngestState
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.segment import SegmentSink, encode_segment
from imsd.chunks.staged_source import staging_blob
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import Buffer
from imsd.formats.raw import SECTOR_BYTES
from imsd.metadata.records import PartKind, PartRecord, UploadRecord

from .file_blocks import FileRange
from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import UploadSink, require_digest


class DirectSink(UploadSink):
    """Feeds a `DiskIngest`; a checkpoint stores what came of it."""

    def __init__(self, runtime: Runtime, progress: UploadProgress, state: IngestState | None) -> None:
        super().__init__()
        record = progress.record
        self._progress = progress
        self._part_bytes = runtime.limits.upload_part_bytes
        self._position = record.committed_offset
        # Of the quota, for what comes until the next checkpoint; and how much of that is not used yet.
        self._reserved_bytes = self._room_bytes = 0
        self._counted_bytes = state.new_size if state else 0  # of the chunks that segments tell of
        self._store = runtime.stores.get(record.store)
        self._segment = SegmentSink()
        target = IngestTarget(self._store, record.store, runtime.index, record.project_id, progress.holder)
        self._ingest = DiskIngest(runtime.pool, target, self._segment, start=state)
        self._is_saved = True

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        saved = progress.record.tree_state
        state = IngestState.from_bytes(saved) if saved else None
        sink = cls(runtime, progress, state)
        try:
            if state:
                await sink._ingest.write(state.undecided)
        except BaseException:
            await sink.close()
            raise
        return sink

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

    async def _reserve(self, length: int) -> None:
        """Before ``length`` bytes come: they may all be new. Raises LimitExceeded, Conflict."""
        if self._room_bytes < length:
            size = self._progress.record.size_bytes
            left = size - self._position if size else self._part_bytes
            more = max(min(left, self._part_bytes), length) - self._room_bytes
            await self._progress.reserve(more)
            self._reserved_bytes += more
            self._room_bytes += more
        self._room_bytes -= length

    def _save(self) -> Coroutine[Any, Any, None] | None:
        if self._is_saved:
            return None
        self._is_saved = True
        self._progress.shrink(self._room_bytes)
        reserved = self._reserved_bytes - self._room_bytes
        self._reserved_bytes = self._room_bytes = 0
        return self._record(self._ingest.begin_checkpoint(self._segment.take), reserved)

    async def _record(
        self, checkpoint: Coroutine[Any, Any, tuple[IngestState, Sequence[ChunkEntry]]], reserved_bytes: int
    ) -> None:
        try:
            state, entries = await checkpoint
            await self._progress.advance(
                part=await self._write_segment(entries, state.position, state.new_size),
                committed_offset=state.end,
                tree_state=state.to_bytes(),
                is_direct=True,
                reserved_bytes=reserved_bytes,
            )
        except BaseException:
            await self._progress.give_back(reserved_bytes)
            raise

    async def seal(self, digest: str) -> UploadRecord:
        size = self._progress.record.committed_offset
        state = await self._ingest.checkpoint()
        actual = _file_digest(state)
        require_digest(digest, actual)
        # A disk has whole sectors, whatever the size of its file.
        padding = -size % SECTOR_BYTES
        await self._ingest.write(bytes(padding))
        result = await self._ingest.finish(size + padding)
        part = await self._write_segment(self._segment.take(), size, result.new_size)
        return await self._progress.seal(actual, json.dumps(asdict(result)).encode(), part)

    async def _drop(self) -> None:
        try:
            await self._ingest.__aexit__(None, None, None)
        finally:
            await self._progress.give_back(self._reserved_bytes)

    async def _write_segment(
        self, entries: Sequence[ChunkEntry], end: int, new_size: int
    ) -> PartRecord | None:
        """``new_size``: bytes of all chunks so far that the store did not have before."""
        if not entries:
            return None
        content = encode_segment(entries)
        number = self._progress.next_number()
        async with self._store.begin(staging_blob(self._progress.record.id, number)) as ingest:
            await ingest.write([content])
            await ingest.commit()
        stored, self._counted_bytes = new_size - self._counted_bytes, new_size
        return self._progress.part(number, PartKind.SEGMENT, entries[0].start, end, stored)


def sealed_result(record: UploadRecord) -> IngestResult:
    """What a committed direct upload stored."""
    return IngestResult(**json.loads(record.tree_state))


def _file_digest(state: IngestState) -> str:
    hasher = TreeHasher.from_state(state.tree)
    hasher.update(state.undecided)
    return hasher.digest()
