"""Uploads: their rows and parts, and the one writer that each has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .keys import forget_data_key
from .records import PartKind, PartRecord, UploadRecord, UploadState
from .rows import Marker, beyond, in_batches, to_row
from .states import UPLOAD_NEXT_STATES, require_move
from .tables import upload, upload_part

# Rows that are read many at a time come without what a writer keeps, which may be megabytes each.
_WITHOUT_STATE = select(*(column for column in upload.c if column is not upload.c.tree_state))


async def insert_upload(c: AsyncConnection, record: UploadRecord) -> None:
    await c.execute(insert(upload).values(to_row(record)))


async def get_upload(c: AsyncConnection, project_id: str, upload_id: str) -> UploadRecord | None:
    query = select(upload).where(upload.c.id == upload_id, upload.c.project_id == project_id)
    return _record((await c.execute(query)).one_or_none())


async def list_uploads(
    c: AsyncConnection, project_id: str, fingerprint: str, limit: int, after: Marker | None
) -> list[UploadRecord]:
    """The newest first, without ``tree_state``; ``fingerprint`` empty: all.

    ``after``: creation time and id of the last one seen.
    """
    rows = _WITHOUT_STATE.where(upload.c.project_id == project_id)
    if fingerprint:
        rows = rows.where(upload.c.fingerprint == fingerprint)
    if after is not None:
        rows = rows.where(beyond(upload.c.created_at, upload.c.id, after, descending=True))
    rows = rows.order_by(upload.c.created_at.desc(), upload.c.id.desc()).limit(limit)
    return [_known(row) for row in await c.execute(rows)]


async def take_over(c: AsyncConnection, upload_id: str) -> int | None:
    """Become the writer: the fence grows and is returned. None when the upload is not open.

    What the older writer had reserved of the quota and did not use is free again.
    """
    staged = select(func.coalesce(func.sum(upload_part.c.stored_bytes), 0)).where(
        upload_part.c.upload_id == upload_id
    )
    change = (
        update(upload)
        .where(upload.c.id == upload_id, upload.c.state == UploadState.OPEN)
        .values(fence=upload.c.fence + 1, staged_bytes=staged.scalar_subquery())
    )
    row = (await c.execute(change.returning(upload.c.fence))).one_or_none()
    return None if row is None else int(row.fence)


async def advance_upload(
    c: AsyncConnection,
    upload_id: str,
    fence: int,
    *,
    part: PartRecord | None,
    values: Mapping[str, object],
) -> bool:
    """Record what the writer with ``fence`` stored: a part and columns such as ``committed_offset``.

    False, and nothing changed, when the upload was taken over or is not open.
    """
    change = update(upload).where(*_is_written(upload_id, fence))
    # An empty SET is no SQL; the fence stays what it is.
    changed = await c.execute(change.values(**{"fence": fence, **values}))
    if changed.rowcount == 0:
        return False
    if part is not None:
        await c.execute(insert(upload_part).values(to_row(part)))
    return True


async def count_parts(c: AsyncConnection, upload_id: str) -> int:
    query = select(func.count()).where(upload_part.c.upload_id == upload_id)
    return int((await c.execute(query)).scalar_one())


async def delete_parts(c: AsyncConnection, upload_id: str) -> None:
    """Forget all parts; their blobs go with the upload."""
    await c.execute(delete(upload_part).where(upload_part.c.upload_id == upload_id))


async def upload_parts(c: AsyncConnection, upload_id: str) -> list[PartRecord]:
    """The parts in the order of the file."""
    rows = select(upload_part).where(upload_part.c.upload_id == upload_id).order_by(upload_part.c.number)
    return [_part(row) for row in await c.execute(rows)]


async def move_upload(
    c: AsyncConnection,
    upload_id: str,
    from_states: Collection[UploadState],
    to_state: UploadState,
    fence: int,
    values: Mapping[str, object],
) -> UploadRecord | None:
    """Change the state, and ``values`` with it, as the writer with ``fence``; None when it is not.

    Raises ValueError for a move outside `UPLOAD_NEXT_STATES`.
    """
    require_move(UPLOAD_NEXT_STATES, from_states, to_state)
    change = update(upload).where(
        upload.c.id == upload_id, upload.c.state.in_(list(from_states)), upload.c.fence == fence
    )
    row = (await c.execute(change.values(**values, state=to_state).returning(upload))).one_or_none()
    return _record(row)


async def attach_upload(c: AsyncConnection, upload_id: str, job_id: str) -> bool:
    """Let a job consume a committed upload; False when it is not committed or another job does."""
    change = update(upload).where(
        upload.c.id == upload_id, upload.c.state == UploadState.COMMITTED, upload.c.job_id == ""
    )
    return bool((await c.execute(change.values(job_id=job_id))).rowcount)


async def detach_upload(c: AsyncConnection, upload_id: str, job_id: str = "") -> bool:
    """Let another job use what this one did not consume; False when no job, or another than ``job_id``
    (unless empty), is attached."""
    is_attached = upload.c.job_id == job_id if job_id else upload.c.job_id != ""
    change = update(upload).where(upload.c.id == upload_id, is_attached)
    return bool((await c.execute(change.values(job_id=""))).rowcount)


async def delete_upload_row(c: AsyncConnection, upload_id: str) -> None:
    """Forget an upload and its parts. Its references to packs are not touched: see `chunk_index`.

    The data key of an encrypted one goes, too, unless there is an image of it.
    """
    change = delete(upload).where(upload.c.id == upload_id).returning(upload.c.image_id)
    if image_id := (await c.execute(change)).scalar_one_or_none():
        await forget_data_key(c, image_id)


async def expired_uploads(c: AsyncConnection, now: datetime, limit: int) -> list[UploadRecord]:
    """Uploads of all projects whose time is over and that no job uses, the longest over first.

    Without ``tree_state``.
    """
    rows = (
        _WITHOUT_STATE.where(upload.c.expires_at <= now, upload.c.job_id == "")
        .order_by(upload.c.expires_at)
        .limit(limit)
    )
    return [_known(row) for row in await c.execute(rows)]


async def staged_total(c: AsyncConnection, project_id: str) -> int:
    """Bytes that the uploads of a project take in staging."""
    query = select(func.coalesce(func.sum(upload.c.staged_bytes), 0)).where(upload.c.project_id == project_id)
    return int((await c.execute(query)).scalar_one())


async def open_upload_count(c: AsyncConnection, project_id: str) -> int:
    query = select(func.count()).where(upload.c.project_id == project_id, upload.c.state == UploadState.OPEN)
    return int((await c.execute(query)).scalar_one())


async def known_uploads(c: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Which of these have a row, in any state."""
    known: set[str] = set()
    for batch in in_batches(list(ids)):
        known.update((await c.execute(select(upload.c.id).where(upload.c.id.in_(batch)))).scalars())
    return known


def _is_written(upload_id: str, fence: int) -> tuple[ColumnElement[bool], ...]:
    return upload.c.id == upload_id, upload.c.fence == fence, upload.c.state == UploadState.OPEN


def _record(row: Row[Any] | None) -> UploadRecord | None:
    return None if row is None else _known(row)


def _known(row: Row[Any]) -> UploadRecord:
    columns = dict(row._mapping)
    columns["state"] = UploadState(columns["state"])
    return UploadRecord(**columns)


def _part(row: Row[Any]) -> PartRecord:
    columns = dict(row._mapping)
    columns["kind"] = PartKind(columns["kind"])
    return PartRecord(**columns)
