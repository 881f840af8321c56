"""With whom images are shared: the rows of `image_member`.

An image is SHARED as long as it has a member, in whatever status; `follow_members` keeps that in step, in the
transaction that adds or removes one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .records import MemberRecord, MemberStatus, Visibility
from .rows import Marker, beyond, in_batches, to_row
from .states import MEMBER_NEXT_STATES, require_move
from .tables import image, image_member


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What becomes of the share of an image with a project: from ``old`` to ``new``; None: there is none."""

    image_id: str
    project_id: str
    old: MemberStatus | None
    new: MemberStatus | None


async def member_of(c: AsyncConnection, image_id: str, project_id: str) -> MemberRecord | None:
    """The share of an image with a project."""
    query = select(image_member).where(
        image_member.c.image_id == image_id, image_member.c.project_id == project_id
    )
    row = (await c.execute(query)).one_or_none()
    return None if row is None else _record(row)


async def insert_member(c: AsyncConnection, *records: MemberRecord) -> None:
    """Add members, whose images are yet to follow: see `follow_members`."""
    if records:
        await c.execute(insert(image_member), [to_row(record) for record in records])


async def change_members(c: AsyncConnection, changes: Sequence[MemberChange], now: datetime) -> None:
    """Make changes that were decided in this transaction, and keep the visibility of the images in step.

    Raises ValueError for a move outside `MEMBER_NEXT_STATES`.
    """
    added = [
        _added(each.image_id, each.project_id, each.new, now)
        for each in changes
        if each.old is None and each.new
    ]
    await insert_member(c, *added)
    if removed := [_key(each) for each in changes if each.new is None]:
        await c.execute(delete(image_member).where(_IS_KEY), removed)
    if moved := [each for each in changes if None not in (each.old, each.new) and each.old is not each.new]:
        await _move(c, moved, now)
    await follow_members(c, {each.image_id for each in changes}, now)


async def end_shares(c: AsyncConnection, image_id: str, now: datetime) -> None:
    """Take all members off an image: it goes, or is to be seen by nobody else any more."""
    await c.execute(delete(image_member).where(image_member.c.image_id == image_id))
    await follow_members(c, [image_id], now)


async def leave_shares(c: AsyncConnection, project_id: str, now: datetime) -> None:
    """Take a project off all images that are shared with it: it goes."""
    left = delete(image_member).where(image_member.c.project_id == project_id)
    image_ids = (await c.execute(left.returning(image_member.c.image_id))).scalars().all()
    await follow_members(c, image_ids, now)


async def statuses_of(
    c: AsyncConnection, image_ids: Collection[str], project_ids: Collection[str]
) -> dict[tuple[str, str], MemberStatus]:
    """Those of these images' shares with these projects, by image and project."""
    rows = select(image_member.c.image_id, image_member.c.project_id, image_member.c.status).where(
        image_member.c.image_id.in_(list(image_ids)), image_member.c.project_id.in_(list(project_ids))
    )
    return {(row.image_id, row.project_id): MemberStatus(row.status) for row in await c.execute(rows)}


async def member_counts(
    c: AsyncConnection, image_ids: Collection[str], statuses: Collection[MemberStatus] = tuple(MemberStatus)
) -> dict[str, int]:
    """How many members in one of ``statuses`` images have; those that have none are left out."""
    rows = (
        select(image_member.c.image_id, func.count().label("members"))
        .where(image_member.c.image_id.in_(list(image_ids)), image_member.c.status.in_(list(statuses)))
        .group_by(image_member.c.image_id)
    )
    return {row.image_id: row.members for row in await c.execute(rows)}


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


async def follow_members(c: AsyncConnection, image_ids: Collection[str], now: datetime) -> None:
    """Make a private image SHARED if it has members, and a SHARED one PRIVATE if it has none.

    A new visibility is a new version of the image.
    """
    has_members = exists().where(image_member.c.image_id == image.c.id)
    for old, new, is_due in (
        (Visibility.PRIVATE, Visibility.SHARED, has_members),
        (Visibility.SHARED, Visibility.PRIVATE, ~has_members),
    ):
        for ids in in_batches(sorted(image_ids)):
            change = update(image).where(image.c.id.in_(ids), image.c.visibility == old, is_due)
            await c.execute(change.values(visibility=new, updated_at=now, version=image.c.version + 1))


def _added(image_id: str, project_id: str, status: MemberStatus, now: datetime) -> MemberRecord:
    return MemberRecord(
        image_id=image_id, project_id=project_id, status=status, created_at=now, updated_at=now
    )


async def _move(c: AsyncConnection, changes: Sequence[MemberChange], now: datetime) -> None:
    for each in changes:
        assert each.old is not None
        assert each.new is not None
        require_move(MEMBER_NEXT_STATES, [each.old], each.new)
    change = update(image_member).where(_IS_KEY).values(status=bindparam("new_status"), updated_at=now)
    await c.execute(change, [_key(each) | {"new_status": str(each.new)} for each in changes])


def _key(change: MemberChange) -> dict[str, str]:
    return {"of_image": change.image_id, "of_project": change.project_id}


_IS_KEY = and_(
    image_member.c.image_id == bindparam("of_image", type_=image_member.c.image_id.type),
    image_member.c.project_id == bindparam("of_project", type_=image_member.c.project_id.type),
)


def _record(row: Row[Any]) -> MemberRecord:
    columns = dict(row._mapping)
    columns["status"] = MemberStatus(columns["status"])
    return MemberRecord(**columns)
