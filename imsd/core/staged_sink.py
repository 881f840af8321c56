"""An upload that is staged: its bytes lie in the store, part by part, until a job reads them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Self

from imsd.chunks.staged_source import staging_blob
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobStore, Ingest, LimitExceeded
from imsd.metadata.records import PartKind, PartRecord, UploadRecord

from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import UploadSink, require_digest

# A shorter run of zeros is staged as bytes: a part of its own would cost more than it saves.
ZERO_PART_BYTES = 1 << 20
_ZEROS = bytes(ZERO_PART_BYTES)

# With parts of 64 MiB this is 6 TiB of data; a writer that alternates bytes and holes meets it sooner.
MAX_PARTS = 100_000


class StagedSink(UploadSink):
    """Writes one part at a time; a part is durable, and counted, when its blob is committed."""

    def __init__(
        self, runtime: Runtime, progress: UploadProgress, hasher: TreeHasher, next_number: int
    ) -> None:
        self._runtime = runtime
        self._progress = progress
        self._hasher = hasher
        self._next_number = next_number
        self._store: BlobStore = runtime.stores.get(progress.record.store)
        self._open_part = AsyncExitStack()
        self._ingest: Ingest | None = None
        self.unsaved_bytes = 0

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        state = progress.record.tree_state
        hasher = TreeHasher.from_state(state) if state else TreeHasher()
        return cls(runtime, progress, hasher, await progress.next_part_number())

    async def write(self, data: bytes) -> None:
        if self._ingest is None:
            await self._begin_part()
        assert self._ingest is not None
        await self._ingest.write([data])
        await self._runtime.pool.run(self._hasher.update, data)
        self.unsaved_bytes += len(data)

    async def write_zeros(self, length: int) -> None:
        if length < ZERO_PART_BYTES:
            await self.write(_ZEROS[:length])
            return
        await self.checkpoint()
        self._hasher.zeros(length)
        await self._advance(PartKind.ZERO, length, 0)

    async def checkpoint(self) -> None:
        if self._ingest is None:
            return
        stored = await self._ingest.commit()
        self._ingest = None
        await self._open_part.aclose()
        length, self.unsaved_bytes = self.unsaved_bytes, 0
        await self._advance(PartKind.DATA, length, stored.size_bytes)

    async def seal(self, digest: str) -> UploadRecord:
        actual = self._hasher.digest()
        require_digest(digest, actual)
        return await self._progress.seal(actual, b"")

    async def close(self) -> None:
        self._ingest = None
        await self._open_part.aclose()

    async def _begin_part(self) -> None:
        if self._next_number >= MAX_PARTS:
            raise LimitExceeded(
                f"the upload has {MAX_PARTS} parts",
                hint="send runs of zeros in longer pieces, or the file as a compressed qcow2",
            )
        blob = staging_blob(self._progress.record.id, self._next_number)
        # What a crash left between the blob and its row; this writer holds the fence.
        await self._store.delete(blob)
        self._ingest = await self._open_part.enter_async_context(self._store.begin(blob))

    async def _advance(self, kind: PartKind, length: int, stored_bytes: int) -> None:
        record = self._progress.record
        part = PartRecord(
            upload_id=record.id,
            number=self._next_number,
            kind=kind,
            start=record.committed_offset,
            length=length,
            stored_bytes=stored_bytes,
        )
        await self._progress.advance(
            part=part,
            committed_offset=record.committed_offset + length,
            tree_state=self._hasher.state(),
            is_direct=False,
            added_bytes=stored_bytes,
        )
        self._next_number += 1
