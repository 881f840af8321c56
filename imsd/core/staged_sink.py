"""An upload that is staged: its bytes lie in the store, part by part, until a job reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from imsd.chunks.sealed_parts import PartSealer, SealedParts, sealed_length
from imsd.chunks.staged_source import staging_blob
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobStore, Buffer, Conflict, Ingest, settle
from imsd.metadata.records import PartKind, UploadRecord

from .runtime import Runtime
from .upload_progress import UploadProgress
from .upload_sink import UploadSink, require_digest

# A shorter run of zeros is staged as bytes: a part of its own would cost more than it saves.
ZERO_PART_BYTES = 1 << 20
_ZEROS = bytes(ZERO_PART_BYTES)


@dataclass(slots=True)
class _Part:
    """A part that is being written to ``ingest``, which ``undo`` leaves.

    ``room_bytes``: of the file, that may still come; ``reserved_bytes``: of the quota, for all of it as it is
    stored. ``sealer``: of an encrypted upload.
    """

    number: int
    ingest: Ingest
    undo: AsyncExitStack
    room_bytes: int
    reserved_bytes: int
    sealer: PartSealer | None
    length: int = 0

    def stored_bytes(self, length: int) -> int:
        """What ``length`` bytes of the file take in the store."""
        return sealed_length(length) if self.sealer else length


class StagedSink(UploadSink):
    """Writes one part at a time; a part is durable, and counted, when its blob is committed."""

    def __init__(self, runtime: Runtime, progress: UploadProgress, hasher: TreeHasher) -> None:
        super().__init__(runtime)
        self._progress = progress
        self._hasher = hasher
        self._store: BlobStore = runtime.stores.get(progress.record.store)
        self._sealed = SealedParts(progress.cipher, progress.record.id) if progress.cipher else None
        self._part: _Part | None = None
        self._zeros = 0  # a run that follows what was written, not yet a part
        self._position = progress.record.committed_offset

    @classmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        state = progress.record.tree_state
        return cls(runtime, progress, TreeHasher.from_state(state) if state else TreeHasher())

    async def write(self, data: Buffer) -> None:
        if self._zeros or (self._part and self._part.room_bytes < len(data)):
            await self.begin_checkpoint()
        part = self._part = self._part or await self._begin_part(len(data))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._write(part, data))
                both.create_task(self._runtime.pool.run(self._hasher.update, data))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        part.length += len(data)
        part.room_bytes -= len(data)
        self.unsaved_bytes += len(data)
        self._position += len(data)

    async def _write(self, part: _Part, data: Buffer) -> None:
        if part.sealer is None:
            await part.ingest.write([data])
        elif sealed := await self._runtime.pool.run(part.sealer.update, data):
            await part.ingest.write([sealed])

    async def write_zeros(self, length: int) -> None:
        if length < ZERO_PART_BYTES and not self._zeros:
            await self.write(_ZEROS[:length])
            return
        if self._part:
            await self.begin_checkpoint()
        self._zeros += length
        self._position += length

    def _save(self) -> Coroutine[Any, Any, None] | None:
        if part := self._part:
            self._part = None
            used = part.stored_bytes(part.length)
            self._progress.shrink(part.reserved_bytes - used)
            part.reserved_bytes = used
            return self._save_part(part, self._hasher.state())
        if length := self._zeros:
            self._zeros = 0
            self._hasher.zeros(length)
            return self._advance(PartKind.ZERO, self._progress.next_number(), length, 0, self._hasher.state())
        return None

    async def seal(self, digest: str) -> UploadRecord:
        actual = self._hasher.digest()
        require_digest(digest, actual)
        return await self._progress.seal(actual, b"")

    async def _drop(self) -> None:
        if part := self._part:
            self._part = None
            await part.undo.aclose()
            await self._progress.give_back(part.reserved_bytes)

    async def _begin_part(self, length: int) -> _Part:
        """A part with room for ``length`` bytes at least, which are about to come."""
        record, part_bytes = self._progress.record, self._runtime.limits.upload_part_bytes
        left = record.size_bytes - self._position if record.size_bytes else part_bytes
        room = max(min(left, part_bytes), length)
        reserved = sealed_length(room) if self._sealed else room
        number = self._progress.next_number()
        await self._progress.reserve(reserved)
        undo = AsyncExitStack()
        try:
            ingest = await undo.enter_async_context(self._store.begin(staging_blob(record.id, number)))
        except BaseException:
            await self._progress.give_back(reserved)
            raise
        sealer = self._sealed.sealer(number) if self._sealed else None
        return _Part(number, ingest, undo, room, reserved, sealer)

    async def _save_part(self, part: _Part, tree_state: bytes) -> None:
        try:
            try:
                if part.sealer:
                    await part.ingest.write([await self._runtime.pool.run(part.sealer.finish)])
                stored = await part.ingest.commit()
            finally:
                await part.undo.aclose()
        except BaseException:  # the blob may be there all the same
            self._remove_blob(part)
            await self._progress.give_back(part.reserved_bytes)
            raise
        advance = self._advance(PartKind.DATA, part.number, part.length, stored.size_bytes, tree_state)
        try:
            await settle(asyncio.create_task(advance))  # to its end: either there is a row, or no blob
        except Conflict:
            self._remove_blob(part)
            raise

    def _remove_blob(self, part: _Part) -> None:
        """No row will ever name it."""
        blob = staging_blob(self._progress.record.id, part.number)
        self._runtime.background.spawn(self._store.delete(blob), "removal of a part that nobody counts")

    async def _advance(
        self, kind: PartKind, number: int, length: int, stored_bytes: int, tree_state: bytes
    ) -> None:
        start = self._progress.record.committed_offset
        await self._progress.advance(
            part=self._progress.part(number, kind, start, start + length, stored_bytes),
            committed_offset=start + length,
            tree_state=tree_state,
            is_direct=False,
            reserved_bytes=stored_bytes,
        )
