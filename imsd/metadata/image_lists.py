"""Lists of images: of a project, public ones, those shared with it, or all of them, in one order.

Each of these is a query of its own, which an index answers; a list of all merges a page of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, false, literal, null, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from .image_query import SORT_COLUMNS, ImageQuery, Scope, conditions
from .images import TaggedRows, tagged_records_of, with_tags
from .records import ImageRecord, MemberStatus, Visibility
from .rows import Marker, beyond_all
from .tables import image, image_member

# A list does not say what was found inside, which is long.
LISTED_COLUMNS = tuple(column for column in image.c if column.name not in ("guest", "search_text"))


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
    given: dict[str, Any] = {_PROJECT.key: query.project_id}
    if after is not None:
        given |= {_AFTER: after[0], _AFTER_ID: after[1]}
    if systems is None:
        rows = _kept_statement(_shape(query, limit, is_first=after is None))
    else:
        rows = _statement(query, limit, is_first=after is None, more=[_systems_are(systems)])
    return await tagged_records_of(c, rows, given)


# What differs from page to page and from project to project.
_PROJECT = bindparam("project", type_=image.c.project_id.type)
_AFTER, _AFTER_ID = "after", "after_id"


@dataclass(frozen=True, slots=True)
class _Shape:
    """A query, by what its statement depends on: ``text``, which tells pages and projects not apart."""

    text: str
    query: ImageQuery = field(compare=False)
    limit: int = field(compare=False)
    is_first: bool = field(compare=False)


def _shape(query: ImageQuery, limit: int, *, is_first: bool) -> _Shape:
    text = repr((replace(query, project_id=""), limit, is_first))
    return _Shape(text, query, limit, is_first)


@lru_cache(maxsize=128)
def _kept_statement(shape: _Shape) -> TaggedRows:
    """Kept, because to make a statement takes as long as to execute it."""
    return _statement(shape.query, shape.limit, shape.is_first)


def _statement(
    query: ImageQuery, limit: int, is_first: bool, more: Sequence[ColumnElement[bool]] = ()
) -> TaggedRows:
    """A page of ``query`` of any project, after any entry unless it is the first."""
    sources = _sources(query, more)
    if len(sources) == 1 and query.scope is not Scope.SHARED:
        rows = _page(sources[0].with_only_columns(*LISTED_COLUMNS), query, limit, is_first=is_first)
    else:
        rows = _merged(sources, query, limit, is_first=is_first)
    return with_tags(rows)


def matching_ids(query: ImageQuery) -> Select[tuple[str]]:
    """The ids of the images of ``query``, of the project only, as part of another query."""
    project = literal(query.project_id, image.c.project_id.type)
    asked = conditions(query, project, is_own=True)
    return select(image.c.id).where(image.c.project_id == project, *asked)


async def systems_of(c: AsyncConnection, query: ImageQuery, limit: int) -> list[tuple[str, str]]:
    """At most ``limit`` os_versions of the images of ``query``, each with an architecture."""
    found: set[tuple[str, str]] = set()
    for source in _sources(query, []):
        pairs = source.with_only_columns(image.c.os_version, image.c.architecture).distinct().limit(limit)
        rows = await c.execute(pairs, {_PROJECT.key: query.project_id})
        found |= {(row.os_version, row.architecture) for row in rows}
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
    """The images of each part of the scope of the project `_PROJECT`; no image is in two of them."""
    asked = [*conditions(query, _PROJECT), *more]
    own = [image.c.project_id == _PROJECT, *conditions(query, _PROJECT, is_own=True), *more]
    is_public = image.c.visibility == Visibility.PUBLIC
    statuses = list(query.member_statuses) or [MemberStatus.ACCEPTED]
    member = image_member.c.status.label("member_status")
    shared = (
        select(image.c.id, member)
        .join_from(image_member, image, image.c.id == image_member.c.image_id)
        .where(image_member.c.project_id == _PROJECT, image_member.c.status.in_(statuses), *asked)
    )
    nobody = null().label("member_status")
    if query.scope is Scope.OWN:
        return [select(image.c.id, nobody).where(*own)]
    if query.scope is Scope.PUBLIC:
        return [select(image.c.id, nobody).where(is_public, *asked)]
    if query.scope is Scope.SHARED:
        return [shared]
    return [
        select(image.c.id, nobody).where(*own),
        select(image.c.id, nobody).where(is_public, image.c.project_id != _PROJECT, *asked),
        shared.where(image.c.visibility != Visibility.PUBLIC),
    ]


def _ordered(rows: Select[Any], column: Any, last: Any, query: ImageQuery) -> Select[Any]:
    """By ``column``, then by the id ``last``."""
    keys = (last,) if query.order_by == "id" else (column, last)
    return rows.order_by(*(key.desc() if query.descending else key for key in keys))


def _merged(sources: Sequence[Select[Any]], query: ImageQuery, limit: int, *, is_first: bool) -> Select[Any]:
    """The first of all sources, of each of which no more than a page is looked at."""
    column = image.c[query.order_by].label("sort_value")
    pages = [
        _page(source.add_columns(column), query, limit, is_first=is_first).subquery(f"source_{number}")
        for number, source in enumerate(sources)
    ]
    found = union_all(*(select(page) for page in pages)).subquery("found")
    rows = select(*LISTED_COLUMNS, found.c.member_status).join(found, found.c.id == image.c.id)
    return _ordered(rows, found.c.sort_value, image.c.id, query).limit(limit)


def _page(rows: Select[Any], query: ImageQuery, limit: int, *, is_first: bool) -> Select[Any]:
    column = image.c[query.order_by]
    if not is_first:
        here = [image.c.id] if query.order_by == "id" else [column, image.c.id]
        there = [bindparam(_AFTER_ID, type_=image.c.id.type)]
        if query.order_by != "id":
            there.insert(0, bindparam(_AFTER, type_=column.type))
        rows = rows.where(beyond_all(here, there, descending=query.descending))
    return _ordered(rows, column, image.c.id, query).limit(limit)
