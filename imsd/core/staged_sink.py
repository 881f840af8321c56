"""An upload that is staged: its bytes lie in the store, part by part, until a job reads them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from imsd.chunks.staged_source import staging_blob
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobStore, Buffer, Conflict, Ingest
from imsd.metadata.records import PartKind, UploadRecord

from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import UploadSink, require_digest

# A shorter run of zeros is staged as bytes: a part of its own would cost more than it saves.
ZERO_PART_BYTES = 1 << 20
_ZEROS = bytes(ZERO_PART_BYTES)


class StagedSink(UploadSink):
    """Writes one part at a time; a part is durable, and counted, when its blob is committed."""

    def __init__(self, runtime: Runtime, progress: UploadProgress, hasher: TreeHasher) -> None:
        self._runtime = runtime
        self._progress = progress
        self._hasher = hasher
        self._store: BlobStore = runtime.stores.get(progress.record.store)
        self._open_part = AsyncExitStack()
        self._ingest: Ingest | None = None
        self._number = 0
        self._zeros = 0  # a run that follows what is durable, not yet a part
        self.unsaved_bytes = 0

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        state = progress.record.tree_state
        return cls(runtime, progress, TreeHasher.from_state(state) if state else TreeHasher())

    async def write(self, data: Buffer) -> None:
        if self._ingest is None:
            await self._save_zeros()
            await self._begin_part()
        assert self._ingest is not None
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ingest.write([data]))
                both.create_task(self._runtime.pool.run(self._hasher.update, data))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self.unsaved_bytes += len(data)

    async def write_zeros(self, length: int) -> None:
        if length < ZERO_PART_BYTES and not self._zeros:
            await self.write(_ZEROS[:length])
            return
        await self._save_data()
        self._zeros += length

    async def checkpoint(self) -> None:
        await self._save_data()
        await self._save_zeros()

    async def seal(self, digest: str) -> UploadRecord:
        actual = self._hasher.digest()
        require_digest(digest, actual)
        return await self._progress.seal(actual, b"")

    async def close(self) -> None:
        is_unfinished = self._ingest is not None
        self._ingest = None
        await self._open_part.aclose()
        if is_unfinished:
            await self._progress.give_back()

    async def _begin_part(self) -> None:
        record, part_bytes = self._progress.record, self._runtime.limits.upload_part_bytes
        left = record.size_bytes - record.committed_offset if record.size_bytes else part_bytes
        # The last message of a part may reach beyond its size.
        await self._progress.reserve(min(left, part_bytes))
        self._number = self._progress.next_number()
        blob = staging_blob(record.id, self._number)
        self._ingest = await self._open_part.enter_async_context(self._store.begin(blob))

    async def _save_data(self) -> None:
        if self._ingest is None:
            return
        stored = await self._ingest.commit()
        self._ingest = None
        await self._open_part.aclose()
        length, self.unsaved_bytes = self.unsaved_bytes, 0
        try:
            await self._advance(PartKind.DATA, self._number, length, stored.size_bytes)
        except Conflict:
            await self._store.delete(stored.id)  # no row will ever name it
            raise

    async def _save_zeros(self) -> None:
        if not self._zeros:
            return
        length, self._zeros = self._zeros, 0
        self._hasher.zeros(length)
        await self._advance(PartKind.ZERO, self._progress.next_number(), length, 0)

    async def _advance(self, kind: PartKind, number: int, length: int, stored_bytes: int) -> None:
        start = self._progress.record.committed_offset
        await self._progress.advance(
            part=self._progress.part(number, kind, start, start + length, stored_bytes),
            committed_offset=start + length,
            tree_state=self._hasher.state(),
            is_direct=False,
        )
