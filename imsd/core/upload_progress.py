"""The durable state of an upload, changed only by the writer that holds its fence."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, LimitExceeded
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import PartKind, PartRecord, UploadRecord, UploadState

from . import quotas
from .keys.encryption import cipher_of_upload, state_label
from .quota_rules import STAGED_BYTES
from .runtime import Runtime

# With parts of 64 MiB this is 6 TiB of data; a writer that alternates bytes and holes, or flushes after
# every byte, meets it sooner.
MAX_PARTS = 100_000

# Part numbers of a writer begin at its fence times this, so that no two writers use one blob: what a
# fenced-off writer still commits is never taken for a part.
NUMBERS_OF_A_WRITER = 1 << 20


class UploadProgress:
    """``record`` is what a crash would leave; ``cipher``: of an encrypted upload.

    The state of an encrypted one is sealed in its row, and plain in ``record``.
    """

    def __init__(
        self, runtime: Runtime, record: UploadRecord, part_count: int, cipher: ChunkCipher | None = None
    ) -> None:
        self._runtime = runtime
        self._part_count = part_count
        self._next_number = record.fence * NUMBERS_OF_A_WRITER
        self._reserved_bytes = 0  # of the quota, for parts that are not stored yet
        # A part is recorded while the next one reserves: each change sees what the one before left.
        self._changing = asyncio.Lock()
        self.record = record
        self.cipher = cipher
        self.holder = Holder(HolderKind.UPLOAD, record.id, record.fence)

    @classmethod
    async def load(cls, runtime: Runtime, record: UploadRecord) -> UploadProgress:
        """``record``: the row as it was when this writer took over.

        Raises what unwrapping the data key of an encrypted one raises, see `DataKeys.unwrapped`.
        """
        cipher = await cipher_of_upload(runtime, record)
        record = replace(record, tree_state=opened_state(record, cipher))
        async with runtime.database.reading() as c:
            return cls(runtime, record, await upload_rows.count_parts(c, record.id), cipher)

    async def describe(self, size_bytes: int, fingerprint: str) -> None:
        """Note what became known of the file, before its bytes come; ``size_bytes`` 0: not known.

        Raises Conflict (UPLOAD_TAKEN_OVER).
        """
        async with self._runtime.database.transaction() as c:
            if not await self._put(c, size_bytes=size_bytes, fingerprint=fingerprint):
                raise taken_over()
        self.record = replace(self.record, size_bytes=size_bytes, fingerprint=fingerprint)

    def next_number(self) -> int:
        """A number for a part that no other part has. Raises LimitExceeded."""
        if self._part_count >= MAX_PARTS:
            raise LimitExceeded(
                f"the upload has {MAX_PARTS} parts",
                hint="send longer pieces with fewer holes and flushes, or the file as a compressed qcow2",
            )
        self._part_count += 1
        self._next_number += 1
        return self._next_number

    def part(self, number: int, kind: PartKind, start: int, end: int, stored_bytes: int) -> PartRecord:
        return PartRecord(
            upload_id=self.record.id,
            number=number,
            kind=kind,
            start=start,
            length=end - start,
            stored_bytes=stored_bytes,
        )

    async def reserve(self, size: int) -> None:
        """Take ``size`` bytes of the project's staging quota, before the first of them is stored.

        Held until a part uses them or they are given back. Raises LimitExceeded (QUOTA_EXCEEDED), Conflict.
        """
        project_id = self.record.project_id
        async with self._changing:
            async with self._runtime.database.transaction() as c:
                if not await self._put(c, staged_bytes=self._staged_bytes + size):
                    raise taken_over()
                await quotas.reserve(c, self._runtime, project_id, STAGED_BYTES, 0)
            self._reserved_bytes += size

    def shrink(self, size: int) -> None:
        """Hold ``size`` reserved bytes less, from the next change on."""
        self._reserved_bytes -= size

    async def give_back(self, size: int) -> None:
        """Free what was reserved and is not needed; nothing happens when another writer has taken over."""
        async with self._changing:
            self.shrink(size)
            async with self._runtime.database.transaction() as c:
                await self._put(c, staged_bytes=self._staged_bytes)

    async def advance(
        self,
        *,
        part: PartRecord | None,
        committed_offset: int,
        tree_state: bytes,
        is_direct: bool,
        reserved_bytes: int = 0,
    ) -> None:
        """Record a durable part, which uses ``reserved_bytes``. Raises Conflict (UPLOAD_TAKEN_OVER)."""
        stored = part.stored_bytes if part else 0
        values = {
            "committed_offset": committed_offset,
            "tree_state": self._sealed(tree_state),
            "is_direct": is_direct,
            "expires_at": self._runtime.clock() + self._runtime.limits.upload_expiry,
        }
        async with self._changing:
            counted = self._staged_bytes + stored - reserved_bytes
            async with self._runtime.database.transaction() as c:
                if not await self._put(c, part, staged_bytes=counted, **values):
                    raise taken_over()
            self.shrink(reserved_bytes)
            staged = self.record.staged_bytes + stored
            # The state may be megabytes: it is read from the row by whoever goes on.
            kept = values | {"tree_state": b""}
            self.record = replace(self.record, staged_bytes=staged, **kept)  # type: ignore[arg-type]

    def _sealed(self, tree_state: bytes) -> bytes:
        if self.cipher is None or not tree_state:
            return tree_state
        return self.cipher.seal(state_label(self.record.id), tree_state)

    @property
    def _staged_bytes(self) -> int:
        """What the upload counts for: what is stored (and in the record) and what is reserved."""
        return self.record.staged_bytes + self._reserved_bytes

    async def _put(self, c: AsyncConnection, part: PartRecord | None = None, **values: Any) -> bool:
        return await upload_rows.advance_upload(
            c, self.record.id, self.record.fence, part=part, values=values
        )

    async def forget_parts(self) -> None:
        """Begin anew, whatever came of an earlier file. Raises Conflict (UPLOAD_TAKEN_OVER)."""
        values: dict[str, Any] = {"committed_offset": 0, "tree_state": b"", "is_direct": None}
        async with self._changing:
            async with self._runtime.database.transaction() as c:
                if not await self._put(c, staged_bytes=self._reserved_bytes, **values):
                    raise taken_over()
                await upload_rows.delete_parts(c, self.record.id)
            self.record = replace(self.record, staged_bytes=0, **values)

    async def seal(self, digest: str, tree_state: bytes, part: PartRecord | None = None) -> UploadRecord:
        """OPEN to COMMITTED, together with the last ``part``. Raises Conflict (UPLOAD_TAKEN_OVER)."""
        values = {
            "digest": digest,
            "tree_state": self._sealed(tree_state),
            "size_bytes": self.record.committed_offset,
            "staged_bytes": self._staged_bytes + (part.stored_bytes if part else 0),
            "expires_at": self._runtime.clock() + self._runtime.limits.upload_expiry,
        }
        async with self._runtime.database.transaction() as c:
            if part and not await self._put(c, part):
                raise taken_over()
            sealed = await upload_rows.move_upload(
                c,
                self.record.id,
                [UploadState.OPEN],
                UploadState.COMMITTED,
                fence=self.record.fence,
                values=values,
            )
        if sealed is None:
            raise taken_over()
        self.record = sealed
        return sealed


def opened_state(record: UploadRecord, cipher: ChunkCipher | None) -> bytes:
    """What the row of an upload keeps of its state. Raises DataLoss (KEY_MISMATCH)."""
    if cipher is None or not record.tree_state:
        return record.tree_state
    return cipher.open(state_label(record.id), record.tree_state)


def taken_over() -> Conflict:
    """What the older of two writers is told."""
    return Conflict(
        "a newer writer has taken over the upload",
        reason="UPLOAD_TAKEN_OVER",
        hint="only one writer at a time can send the bytes of an upload",
    )
