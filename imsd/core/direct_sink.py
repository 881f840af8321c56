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
        self._is_saved = False
        await self._ingest.write(data)
        self.unsaved_bytes += len(data)

    async def write_zeros(self, length: int) -> None:
        self._is_saved = False
        await self._ingest.write_zeros(length)

    async def copy(self, range_: FileRange) -> None:
        self._is_saved = False
        await self._ingest.copy_range(range_.blocks, range_.end)
        self.unsaved_bytes += range_.data_bytes

    def _save(self) -> Coroutine[Any, Any, None] | None:
        if self._is_saved:
            return None
        self._is_saved = True
        return self._record(self._ingest.begin_checkpoint(self._segment.take))

    async def _record(
        self, checkpoint: Coroutine[Any, Any, tuple[IngestState, Sequence[ChunkEntry]]]
    ) -> None:
        state, entries = await checkpoint
        await self._progress.advance(
            part=await self._write_segment(entries, state.position),
            committed_offset=state.end,
            tree_state=state.to_bytes(),
            is_direct=True,
        )

    async def seal(self, digest: str) -> UploadRecord:
        size = self._progress.record.committed_offset
        state = await self._ingest.checkpoint()
        actual = _file_digest(state)
        require_digest(digest, actual)
        # A disk has whole sectors, whatever the size of its file.
        padding = -size % SECTOR_BYTES
        await self._ingest.write(bytes(padding))
        result = await self._ingest.finish(size + padding)
        part = await self._write_segment(self._segment.take(), size)
        return await self._progress.seal(actual, json.dumps(asdict(result)).encode(), part)

    async def _drop(self) -> None:
        await self._ingest.__aexit__(None, None, None)

    async def _write_segment(self, entries: Sequence[ChunkEntry], end: int) -> PartRecord | None:
        if not entries:
            return None
        content = encode_segment(entries)
        number = self._progress.next_number()
        async with self._store.begin(staging_blob(self._progress.record.id, number)) as ingest:
            await ingest.write([content])
            await ingest.commit()
        return self._progress.part(number, PartKind.SEGMENT, entries[0].start, end, len(content))


def sealed_result(record: UploadRecord) -> IngestResult:
    """What a committed direct upload stored."""
    return IngestResult(**json.loads(record.tree_state))


def _file_digest(state: IngestState) -> str:
    hasher = TreeHasher.from_state(state.tree)
    hasher.update(state.undecided)
    return hasher.digest()
