"""Requests that carried an id: a repeated one gets the first answer."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from .rows import insert_new
from .tables import request


async def recall_request(c: AsyncConnection, project_id: str, request_id: str) -> tuple[str, str] | None:
    """(fingerprint, resource id) of an earlier request with this id."""
    query = select(request.c.fingerprint, request.c.resource_id).where(
        request.c.project_id == project_id, request.c.request_id == request_id
    )
    row = (await c.execute(query)).one_or_none()
    return None if row is None else (row.fingerprint, row.resource_id)


async def remember_request(
    c: AsyncConnection, project_id: str, request_id: str, fingerprint: str, resource_id: str, now: datetime
) -> bool:
    """False, and nothing changed, when the id was used before."""
    row = {
        "project_id": project_id,
        "request_id": request_id,
        "fingerprint": fingerprint,
        "resource_id": resource_id,
        "created_at": now,
    }
    return bool((await c.execute(insert_new(c.dialect, request).values(row))).rowcount)


async def forget_requests(c: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete at most ``limit`` of those made before a time; returns how many."""
    keys = tuple_(request.c.project_id, request.c.request_id)
    old = select(request.c.project_id, request.c.request_id).where(request.c.created_at < before)
    return int((await c.execute(delete(request).where(keys.in_(old.limit(limit))))).rowcount)
