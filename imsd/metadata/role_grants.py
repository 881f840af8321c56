"""Who has which role where."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from .identity_records import GrantRecord, PrincipalKind
from .identity_tables import role_grant
from .rows import in_batches, insert_new, to_row

# In this order they are listed; it is the primary key.
_ORDER = (role_grant.c.principal_kind, role_grant.c.principal_id, role_grant.c.project_id, role_grant.c.role)

Place = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantQuery:
    """What is empty or None fits all; ``project_id`` as it was granted."""

    principal_kind: PrincipalKind | None = None
    principal_id: str = ""
    project_id: str = ""


def place_of(record: GrantRecord) -> Place:
    """Where a grant stands in the order of lists."""
    return record.principal_kind.value, record.principal_id, record.project_id, record.role


def text_of(place: Place) -> str:
    """A place in one text: no part of it holds a line break."""
    return "\n".join(place)


def place_from(text: str) -> Place:
    kind, principal_id, project_id, role = text.split("\n")
    return kind, principal_id, project_id, role


async def insert_grant(c: AsyncConnection, record: GrantRecord) -> GrantRecord:
    """The grant as it stands: with its first time, if it was granted before."""
    await c.execute(insert_new(c.dialect, role_grant).values(to_row(record)))
    row = (await c.execute(select(role_grant).where(_is(record)))).mappings().one()
    return _record(row)


async def delete_grant(c: AsyncConnection, record: GrantRecord) -> bool:
    """Whatever its time; False when it is not there."""
    return bool((await c.execute(delete(role_grant).where(_is(record)))).rowcount)


async def count_grants(c: AsyncConnection, kind: PrincipalKind, principal_id: str) -> int:
    rows = select(func.count()).select_from(role_grant).where(_is_of(kind, [principal_id]))
    return int((await c.execute(rows)).scalar_one())


async def list_grants(
    c: AsyncConnection, query: GrantQuery, limit: int, after: Place | None
) -> list[GrantRecord]:
    """At most ``limit`` after the place of the last one seen."""
    rows = select(role_grant)
    if query.principal_kind is not None:
        rows = rows.where(role_grant.c.principal_kind == query.principal_kind)
    if query.principal_id:
        rows = rows.where(role_grant.c.principal_id == query.principal_id)
    if query.project_id:
        rows = rows.where(role_grant.c.project_id == query.project_id)
    if after is not None:
        there = tuple_(*(literal(value, column.type) for value, column in zip(after, _ORDER, strict=True)))
        rows = rows.where(tuple_(*_ORDER) > there)
    return [_record(row) for row in (await c.execute(rows.order_by(*_ORDER).limit(limit))).mappings()]


async def grants_of(
    c: AsyncConnection,
    kind: PrincipalKind,
    principal_ids: Collection[str],
    *,
    limit: int,
    roles: Sequence[str] = (),
) -> list[GrantRecord]:
    """At most ``limit`` grants of principals of one kind, in order; ``roles`` empty: of any."""
    found: list[GrantRecord] = []
    for ids in in_batches(sorted(principal_ids), 500):
        rows = select(role_grant).where(_is_of(kind, ids)).order_by(*_ORDER).limit(limit - len(found))
        if roles:
            rows = rows.where(role_grant.c.role.in_(roles))
        found += [_record(row) for row in (await c.execute(rows)).mappings()]
        if len(found) >= limit:
            break
    return found


def _is_of(kind: PrincipalKind, principal_ids: Iterable[str]) -> ColumnElement[bool]:
    return and_(role_grant.c.principal_kind == kind, role_grant.c.principal_id.in_(list(principal_ids)))


def _is(record: GrantRecord) -> ColumnElement[bool]:
    return and_(*(column == value for column, value in zip(_ORDER, place_of(record), strict=True)))


def _record(row: object) -> GrantRecord:
    columns = dict(row)  # type: ignore[call-overload]
    columns["principal_kind"] = PrincipalKind(columns["principal_kind"])
    return GrantRecord(**columns)
