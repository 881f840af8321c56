"""An upload that becomes chunks while it arrives: what its two kinds have in common.

What is durable is told by small segments, one a checkpoint: the list of the chunks stored since the one
before. The job that makes the image only puts the segments together to a manifest.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from imsd.chunks.entry import ChunkEntry
from imsd.chunks.ingest import BY_CONTENT, Cutting, DiskIngest
from imsd.chunks.ingest_state import IngestResult, IngestState
from imsd.chunks.ingest_steps import IngestSteps
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.segment import SegmentSink, encode_segment
from imsd.chunks.staged_source import staging_blob
from imsd.formats.reader import Finding
from imsd.metadata.records import PartKind, PartRecord, UploadRecord

from .keys.encryption import ingest_target
from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import UploadSink

# So many chunks that no segment tells of begin a checkpoint, however few bytes of the file they came of: a
# small file may hold a disk of any number of chunks.
MAX_UNTOLD_CHUNKS = 4096

# From the state of the ingest at a checkpoint: the offset up to which nothing need be sent again, and
# what the upload's row keeps.
Kept = Callable[[IngestState], tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class SealedDisk:
    """What a committed upload stored. ``format_name`` is empty when a job has to find it out."""

    result: IngestResult
    format_name: str = ""
    findings: Sequence[Finding] = ()

    def to_bytes(self) -> bytes:
        findings = [[finding.code, finding.message] for finding in self.findings]
        return json.dumps([asdict(self.result), self.format_name, findings]).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> SealedDisk:
        result, format_name, findings = json.loads(content)
        return cls(IngestResult(**result), format_name, [Finding(*finding) for finding in findings])


IngestT = TypeVar("IngestT", bound=IngestSteps)


class ChunkedSink(UploadSink, Generic[IngestT]):
    """Feeds an ingest; a checkpoint stores what came of it. ``_position``: of the file."""

    def __init__(self, runtime: Runtime, progress: UploadProgress, state: IngestState | None) -> None:
        """``state``: go on from there."""
        super().__init__(runtime)
        record = progress.record
        self._progress = progress
        self._part_bytes = runtime.limits.upload_part_bytes
        self._position = record.committed_offset
        # Of the quota, for what comes until the next checkpoint; and how much of that is not used yet.
        self._reserved_bytes = self._room_bytes = 0
        self._counted_bytes = state.new_size if state else 0  # of the chunks that segments tell of
        self._store = runtime.stores.get(record.store)
        self._segment = SegmentSink()
        target = ingest_target(runtime, record.store, record.project_id, progress.holder, progress.cipher)
        self._ingest = self._begin_ingest(target, state)
        self._is_saved = True

    @abstractmethod
    def _begin_ingest(self, target: IngestTarget, state: IngestState | None) -> IngestT:
        """An ingest that gives its entries to ``_segment``."""

    async def _resumed(self, state: IngestState | None) -> Self:
        """This sink, ready for more."""
        return self

    @abstractmethod
    def _kept(self) -> Kept:
        """How to keep what was given to the ingest until now."""

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

    def _has_many_chunks(self) -> bool:
        return len(self._segment) >= MAX_UNTOLD_CHUNKS

    def _save(self) -> Coroutine[Any, Any, None] | None:
        if self._is_saved:
            return None
        self._is_saved = True
        self._progress.shrink(self._room_bytes)
        reserved = self._reserved_bytes - self._room_bytes
        self._reserved_bytes = self._room_bytes = 0
        return self._record(self._ingest.begin_checkpoint(self._segment.take), self._kept(), reserved)

    async def _record(
        self,
        checkpoint: Coroutine[Any, Any, tuple[IngestState, Sequence[ChunkEntry]]],
        kept: Kept,
        reserved_bytes: int,
    ) -> None:
        try:
            state, entries = await checkpoint
            committed_offset, row_state = kept(state)
            await self._progress.advance(
                part=await self._write_segment(entries, state.position, state.new_size),
                committed_offset=committed_offset,
                tree_state=row_state,
                is_direct=True,
                reserved_bytes=reserved_bytes,
            )
        except BaseException:
            await self._progress.give_back(reserved_bytes)
            raise

    async def _seal(self, digest: str, disk: SealedDisk) -> UploadRecord:
        """``digest``: of the file. The disk was finished."""
        part = await self._write_segment(self._segment.take(), disk.result.size_bytes, disk.result.new_size)
        return await self._progress.seal(digest, disk.to_bytes(), part)

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
        number = self._progress.next_number()
        blob = staging_blob(self._progress.record.id, number)
        content = encode_segment(entries, self._progress.cipher, blob)
        async with self._store.begin(blob) as ingest:
            await ingest.write([content])
            await ingest.commit()
        stored, self._counted_bytes = new_size - self._counted_bytes, new_size
        return self._progress.part(number, PartKind.SEGMENT, entries[0].start, end, stored)


class DiskSink(ChunkedSink[DiskIngest]):
    """Feeds a `DiskIngest`. ``cutting``: how it stores the disk."""

    cutting: ClassVar[Cutting] = BY_CONTENT

    def _begin_ingest(self, target: IngestTarget, state: IngestState | None) -> DiskIngest:
        return DiskIngest(self._runtime.pool, target, self._segment, start=state, cutting=self.cutting)

    async def _resumed(self, state: IngestState | None) -> Self:
        """This sink, once what ``state`` had taken and not decided is given again; closed if that fails."""
        try:
            if state:
                await self._ingest.write(state.undecided)
        except BaseException:
            await self.close()
            raise
        return self
