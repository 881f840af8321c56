"""What projects used, by hour: counted when it happens, or looked at now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Dialect, case, delete, func, literal, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from .image_query import status_is
from .quota_tables import usage_record
from .quotas import COUNTED_STATUSES
from .rows import in_batches
from .tables import image, manifest_holder, pack, pack_reference, upload

# Parameters of a statement that writes so many rows stay below what every SQLite takes.
ROWS_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """How much of ``resource`` a project used in the hour that begins at ``hour``."""

    project_id: str
    hour: datetime
    resource: str
    quantity: int


UsageMarker = tuple[datetime, str, str]


async def add_usage(c: AsyncConnection, record: UsageRecord) -> None:
    """Add to what is there; in the transaction of that which is counted, so that it counts once."""
    await _put(c, [record], lambda old, new: old + new)


async def raise_usage(c: AsyncConnection, records: Sequence[UsageRecord]) -> None:
    """Let each record be at least so much: what is looked at twice in an hour counts at its most."""
    await _put(c, records, lambda old, new: case((old > new, old), else_=new))


async def list_usage(
    c: AsyncConnection,
    project_id: str | None,
    begin: datetime,
    end: datetime,
    limit: int,
    after: UsageMarker | None,
) -> list[UsageRecord]:
    """At most ``limit`` records of hours from ``begin`` to before ``end``, in order; None: all projects."""
    order = (usage_record.c.hour, usage_record.c.project_id, usage_record.c.resource)
    rows = select(usage_record).where(usage_record.c.hour >= begin, usage_record.c.hour < end)
    if project_id is not None:
        rows = rows.where(usage_record.c.project_id == project_id)
    if after is not None:
        last = [literal(value, column.type) for value, column in zip(after, order, strict=True)]
        rows = rows.where(tuple_(*order) > tuple_(*last))
    found = await c.execute(rows.order_by(*order).limit(limit))
    return [UsageRecord(**row._mapping) for row in found]


async def forget_usage(c: AsyncConnection, before: datetime) -> int:
    """Delete the records of hours before a time; returns how many."""
    return int((await c.execute(delete(usage_record).where(usage_record.c.hour < before))).rowcount)


async def has_usage(c: AsyncConnection, hour: datetime, resource: str) -> bool:
    """Whether any project has a record of ``resource`` in the hour."""
    query = select(usage_record.c.project_id).where(
        usage_record.c.hour == hour, usage_record.c.resource == resource
    )
    return (await c.execute(query.limit(1))).one_or_none() is not None


async def images_now(c: AsyncConnection) -> Mapping[str, tuple[int, int]]:
    """By project: how many images there are, and what they take in the store, each counted on its own."""
    rows = (
        select(image.c.project_id, func.count(), func.sum(image.c.stored_size))
        .where(status_is(COUNTED_STATUSES))
        .group_by(image.c.project_id)
    )
    return {project: (int(count), int(size)) for project, count, size in await c.execute(rows)}


async def staged_now(c: AsyncConnection) -> Mapping[str, int]:
    """By project: bytes that its uploads hold in the store."""
    rows = (
        select(upload.c.project_id, func.sum(upload.c.staged_bytes))
        .group_by(upload.c.project_id)
        .having(func.sum(upload.c.staged_bytes) > 0)
    )
    return {project: int(size) for project, size in await c.execute(rows)}


async def packs_now(c: AsyncConnection) -> Mapping[str, int]:
    """By project: bytes of the packs that hold its images, each pack counted once."""
    held = (
        select(image.c.project_id, pack.c.id, pack.c.size_bytes)
        .join(manifest_holder, manifest_holder.c.holder_id == image.c.id)
        .join(pack_reference, pack_reference.c.holder_id == manifest_holder.c.manifest_id)
        .join(pack, pack.c.id == pack_reference.c.pack_id)
        .where(
            image.c.status.in_(COUNTED_STATUSES),
            manifest_holder.c.holder_kind == "image",
            pack_reference.c.holder_kind == "manifest",
        )
        .distinct()
        .subquery()
    )
    rows = select(held.c.project_id, func.sum(held.c.size_bytes)).group_by(held.c.project_id)
    return {project: int(size) for project, size in await c.execute(rows)}


async def _put(c: AsyncConnection, records: Sequence[UsageRecord], join: Any) -> None:
    for batch in in_batches(records, ROWS_AT_ONCE):
        new = _insert(c.dialect).values(
            [
                {
                    "project_id": record.project_id,
                    "hour": record.hour,
                    "resource": record.resource,
                    "quantity": record.quantity,
                }
                for record in batch
            ]
        )
        joined = join(usage_record.c.quantity, new.excluded.quantity)
        await c.execute(
            new.on_conflict_do_update(
                index_elements=list(usage_record.primary_key.columns), set_={"quantity": joined}
            )
        )


def _insert(dialect: Dialect) -> Any:
    return (sqlite if dialect.name == "sqlite" else postgresql).insert(usage_record)
