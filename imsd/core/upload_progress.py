"""The durable state of an upload, changed only by the writer that holds its fence."""

from __future__ import annotations

from dataclasses import replace

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, LimitExceeded
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import PartRecord, UploadRecord, UploadState

from .runtime import Runtime


class UploadProgress:
    """``record`` is what a crash would leave."""

    def __init__(self, runtime: Runtime, record: UploadRecord) -> None:
        self._runtime = runtime
        self.record = record
        self.holder = Holder(HolderKind.UPLOAD, record.id, record.fence)

    async def next_part_number(self) -> int:
        async with self._runtime.database.reading() as c:
            return len(await upload_rows.upload_parts(c, self.record.id))

    async def advance(
        self,
        *,
        part: PartRecord | None,
        committed_offset: int,
        tree_state: bytes,
        is_direct: bool,
        added_bytes: int,
    ) -> None:
        """Record a durable part. Raises Conflict (UPLOAD_TAKEN_OVER), LimitExceeded (QUOTA_EXCEEDED)."""
        values = self._values(committed_offset, tree_state, is_direct, added_bytes)
        quota = self._runtime.limits.staging_quota_bytes
        async with self._runtime.database.transaction() as c:
            staged = await upload_rows.staged_total(c, self.record.project_id)
            if staged + added_bytes > quota:
                raise LimitExceeded(
                    f"the uploads of project {self.record.project_id} would hold more than {quota} bytes",
                    reason="QUOTA_EXCEEDED",
                    hint="make images of finished uploads, or abort some",
                )
            if not await upload_rows.advance_upload(
                c, self.record.id, self.record.fence, part=part, values=values
            ):
                raise taken_over()
        self.record = replace(self.record, **values)  # type: ignore[arg-type]  # the names are fields

    def _values(
        self, committed_offset: int, tree_state: bytes, is_direct: bool, added_bytes: int
    ) -> dict[str, object]:
        return {
            "committed_offset": committed_offset,
            "tree_state": tree_state,
            "is_direct": is_direct,
            "staged_bytes": self.record.staged_bytes + added_bytes,
            "expires_at": self._runtime.clock() + self._runtime.limits.upload_expiry,
        }

    async def seal(self, digest: str, tree_state: bytes, part: PartRecord | None = None) -> UploadRecord:
        """OPEN to COMMITTED, together with the last ``part``."""
        values = {
            "digest": digest,
            "tree_state": tree_state,
            "size_bytes": self.record.committed_offset,
            "expires_at": self._runtime.clock() + self._runtime.limits.upload_expiry,
        }
        async with self._runtime.database.transaction() as c:
            if part and not await upload_rows.advance_upload(
                c, self.record.id, self.record.fence, part=part, values={}
            ):
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


def taken_over() -> Conflict:
    """What the older of two writers is told."""
    return Conflict(
        "a newer writer has taken over the upload",
        reason="UPLOAD_TAKEN_OVER",
        hint="only one writer at a time can send the bytes of an upload",
    )
