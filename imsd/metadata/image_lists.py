"""Lists of images: of a project, public ones, those shared with it, or all of them, in one order.

Each of these is a query of its own, which an index answers; a list of all merges a page of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, false, null, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from .image_query import SORT_COLUMNS, ImageQuery, Scope, conditions
from .images import records_of
from .records import ImageRecord, MemberStatus, Visibility
from .rows import Marker, beyond
from .tables import image, image_member

# A list does not say what was found inside, which is long.
LISTED_COLUMNS = tuple(column for column in image.c if column.name != "guest")


async def list_images(
    c: AsyncConnection,
    query: ImageQuery,
    limit: int,
    after: Marker | None,
    systems: Sequence[tuple[str, str]] | None = None,
) -> list[ImageRecord]:
    """At most ``limit`` images that come after ``after``: the sort value and id of the last one seen.

    ``systems``: of `systems_of`; only images with one of these; None: with any. What was found inside is
    left out.
    """
    if query.order_by not in SORT_COLUMNS:
        raise ValueError(f"images are not sorted by {query.order_by}")
    sources = _sources(query, [] if systems is None else [_systems_are(systems)])
    if len(sources) == 1 and query.scope is not Scope.SHARED:
        rows = _page(sources[0].with_only_columns(*LISTED_COLUMNS), query, limit, after)
        return await records_of(c, rows)
    return await records_of(c, _merged(sources, query, limit, after))


def matching_ids(query: ImageQuery) -> Select[tuple[str]]:
    """The ids of the images of ``query``, of the project only, as part of another query."""
    return select(image.c.id).where(image.c.project_id == query.project_id, *conditions(query))


async def systems_of(c: AsyncConnection, query: ImageQuery, limit: int) -> list[tuple[str, str]]:
    """At most ``limit`` os_versions of the images of ``query``, each with an architecture."""
    found: set[tuple[str, str]] = set()
    for source in _sources(query, []):
        pairs = source.with_only_columns(image.c.os_version, image.c.architecture).distinct().limit(limit)
        found |= {(row.os_version, row.architecture) for row in await c.execute(pairs)}
    return sorted(found)[:limit]


def _systems_are(pairs: Sequence[tuple[str, str]]) -> ColumnElement[bool]:
    """Whether an image has one of these systems with its architecture."""
    by_architecture: dict[str, list[str]] = {}
    for os_version, architecture in pairs:
        by_architecture.setdefault(architecture, []).append(os_version)
    fits = [
        and_(image.c.architecture == architecture, image.c.os_version.in_(os_versions))
        for architecture, os_versions in by_architecture.items()
    ]
    return or_(false(), *fits)


def _sources(query: ImageQuery, more: Sequence[ColumnElement[bool]]) -> list[Select[Any]]:
    """The images of each part of the scope; no image is in two of them."""
    asked = [*conditions(query), *more]
    own = image.c.project_id == query.project_id
    is_public = image.c.visibility == Visibility.PUBLIC
    statuses = list(query.member_statuses) or [MemberStatus.ACCEPTED]
    member = image_member.c.status.label("member_status")
    shared = (
        select(image.c.id, member)
        .join_from(image_member, image, image.c.id == image_member.c.image_id)
        .where(image_member.c.project_id == query.project_id, image_member.c.status.in_(statuses), *asked)
    )
    nobody = null().label("member_status")
    if query.scope is Scope.OWN:
        return [select(image.c.id, nobody).where(own, *asked)]
    if query.scope is Scope.PUBLIC:
        return [select(image.c.id, nobody).where(is_public, *asked)]
    if query.scope is Scope.SHARED:
        return [shared]
    return [
        select(image.c.id, nobody).where(own, *asked),
        select(image.c.id, nobody).where(is_public, image.c.project_id != query.project_id, *asked),
        shared.where(image.c.visibility != Visibility.PUBLIC),
    ]


def _ordered(rows: Select[Any], column: Any, last: Any, query: ImageQuery) -> Select[Any]:
    """By ``column``, then by the id ``last``."""
    keys = (last,) if query.order_by == "id" else (column, last)
    return rows.order_by(*(key.desc() if query.descending else key for key in keys))


def _merged(
    sources: Sequence[Select[Any]], query: ImageQuery, limit: int, after: Marker | None
) -> Select[Any]:
    """The first of all sources, of each of which no more than a page is looked at."""
    column = image.c[query.order_by].label("sort_value")
    pages = [
        _page(source.add_columns(column), query, limit, after).subquery(f"source_{number}")
        for number, source in enumerate(sources)
    ]
    found = union_all(*(select(page) for page in pages)).subquery("found")
    rows = select(*LISTED_COLUMNS, found.c.member_status).join(found, found.c.id == image.c.id)
    return _ordered(rows, found.c.sort_value, image.c.id, query).limit(limit)


def _page(rows: Select[Any], query: ImageQuery, limit: int, after: Marker | None) -> Select[Any]:
    column = image.c[query.order_by]
    if after is not None and query.order_by == "id":
        rows = rows.where(image.c.id < after[1] if query.descending else image.c.id > after[1])
    elif after is not None:
        rows = rows.where(beyond(column, image.c.id, after, descending=query.descending))
    return _ordered(rows, column, image.c.id, query).limit(limit)
