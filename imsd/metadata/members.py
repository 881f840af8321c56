"""With whom images are shared: the rows of `image_member`.

An image is SHARED as long as it has a member, in whatever status; `follow_members` keeps that in step, in the
transaction that inserts or deletes one.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .records import MemberRecord, MemberStatus, Visibility
from .rows import Marker, beyond, to_row
from .states import MEMBER_NEXT_STATES, require_move
from .tables import image, image_member


async def member_of(c: AsyncConnection, image_id: str, project_id: str) -> MemberRecord | None:
    """The share of an image with a project."""
    query = select(image_member).where(_is(image_id, project_id))
    row = (await c.execute(query)).one_or_none()
    return None if row is None else _record(row)


async def insert_member(c: AsyncConnection, record: MemberRecord) -> None:
    await c.execute(insert(image_member).values(to_row(record)))


async def move_member(
    c: AsyncConnection,
    image_id: str,
    project_id: str,
    from_statuses: Collection[MemberStatus],
    to_status: MemberStatus,
    now: datetime,
) -> bool:
    """Change the status of a member that is in one of ``from_statuses``; False if it is not.

    Raises ValueError for a move outside `MEMBER_NEXT_STATES`.
    """
    require_move(MEMBER_NEXT_STATES, from_statuses, to_status)
    change = update(image_member).where(
        _is(image_id, project_id), image_member.c.status.in_(list(from_statuses))
    )
    return bool((await c.execute(change.values(status=to_status, updated_at=now))).rowcount)


async def delete_member(c: AsyncConnection, image_id: str, project_id: str) -> bool:
    """False if the project was no member."""
    return bool((await c.execute(delete(image_member).where(_is(image_id, project_id)))).rowcount)


async def delete_members(c: AsyncConnection, image_id: str) -> int:
    """End every share of an image; returns how many there were."""
    return int((await c.execute(delete(image_member).where(image_member.c.image_id == image_id))).rowcount)


async def count_members(c: AsyncConnection, image_id: str, statuses: Collection[MemberStatus] = ()) -> int:
    """Of an image, in any of ``statuses``; empty: in all."""
    rows = select(func.count()).select_from(image_member).where(image_member.c.image_id == image_id)
    if statuses:
        rows = rows.where(image_member.c.status.in_(list(statuses)))
    return int((await c.execute(rows)).scalar_one())


async def list_members(
    c: AsyncConnection,
    image_id: str,
    statuses: Collection[MemberStatus],
    limit: int,
    after: Marker | None,
    *,
    only_project_id: str = "",
) -> list[MemberRecord]:
    """At most ``limit`` members, the first added first; ``after``: time and project of the last one seen.

    ``statuses`` empty: all. ``only_project_id``: that member alone.
    """
    rows = select(image_member).where(image_member.c.image_id == image_id)
    if statuses:
        rows = rows.where(image_member.c.status.in_(list(statuses)))
    if only_project_id:
        rows = rows.where(image_member.c.project_id == only_project_id)
    if after is not None:
        rows = rows.where(
            beyond(image_member.c.created_at, image_member.c.project_id, after, descending=False)
        )
    rows = rows.order_by(image_member.c.created_at, image_member.c.project_id).limit(limit)
    return [_record(row) for row in await c.execute(rows)]


async def follow_members(c: AsyncConnection, image_id: str, now: datetime) -> None:
    """Make a private image SHARED if it has members, and a SHARED one PRIVATE if it has none.

    A new visibility is a new version of the image.
    """
    has_members = exists().where(image_member.c.image_id == image.c.id)
    for old, new, is_due in (
        (Visibility.PRIVATE, Visibility.SHARED, has_members),
        (Visibility.SHARED, Visibility.PRIVATE, ~has_members),
    ):
        change = update(image).where(image.c.id == image_id, image.c.visibility == old, is_due)
        await c.execute(change.values(visibility=new, updated_at=now, version=image.c.version + 1))


def _is(image_id: str, project_id: str) -> ColumnElement[bool]:
    return and_(image_member.c.image_id == image_id, image_member.c.project_id == project_id)


def _record(row: Row[Any]) -> MemberRecord:
    columns = dict(row._mapping)
    columns["status"] = MemberStatus(columns["status"])
    return MemberRecord(**columns)
