"""Which images a list has: what it may ask for, as conditions that an index answers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, ColumnElement, Table, and_, exists, not_, or_, select

from .not_by_index import not_by_index
from .records import ImageStatus, MemberStatus
from .tables import image, image_support, image_tag
from .text_search import is_in_texts

# What a caller sees unless it asks for more.
LISTED_STATUSES = (
    ImageStatus.QUEUED,
    ImageStatus.SAVING,
    ImageStatus.ACTIVE,
    ImageStatus.DEACTIVATED,
)

SORT_COLUMNS = (
    "created_at",
    "updated_at",
    "name",
    "virtual_size",
    "status",
    "disk_format",
    "id",
    "min_disk_gb",
)

# What may be a part of an id.
_OF_ID = re.compile(r"[0-9a-fA-F\-]{1,36}")


class Scope(StrEnum):
    """Whose images: of the project, public ones, those of others that are shared with it, or all of these."""

    OWN = "own"
    PUBLIC = "public"
    SHARED = "shared_with_me"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From ``first`` on, up to ``end``, which is not in it; None: without an end."""

    column: str
    first: datetime | None = None
    end: datetime | None = None
    is_outside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuery:
    """Which images, in which order. An empty condition fits all; of several values one must fit.

    ``name_pattern``: ``*`` stands for any characters. ``search``: a part of name, id, system or platform, in
    any case. ``statuses`` empty: `LISTED_STATUSES`. ``tags``: all must be there, an empty value fits any
    value. ``member_statuses``: of the share of an image of another project; empty: ACCEPTED. ``any_of``: a
    column and what it may be, of `ANY_OF`; ``exactly``: a column and what it is, of `EXACTLY`. ``support``:
    marks that must be set as they are here. ``server_type``: not looked
    at here, it marks the query. ``order_by``: one of `SORT_COLUMNS`.
    """

    project_id: str
    scope: Scope = Scope.OWN
    member_statuses: Collection[MemberStatus] = ()
    statuses: Collection[ImageStatus] = ()
    name_pattern: str = ""
    search: str = ""
    disk_formats: Collection[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    any_of: Sequence[tuple[str, Sequence[str | int]]] = ()
    exactly: Sequence[tuple[str, str | int | bool]] = ()
    is_deprecated: bool | None = None
    is_encrypted: bool | None = None
    support: Sequence[tuple[str, str]] = ()
    times: Sequence[TimeRange] = ()
    server_type: str = ""
    order_by: str = "created_at"
    descending: bool = True


# What may be asked for in ``any_of``.
ANY_OF = (
    "visibility",
    "kind",
    "os_type",
    "os_bits",
    "platform",
    "os_version",
    "architecture",
    "boot_mode",
    "server_kind",
    "store",
)

# What may be asked for in ``exactly``.
EXACTLY = (
    "id",
    "project_id",
    "is_protected",
    "is_published",
    "min_disk_gb",
    "min_ram_mb",
    "family",
    "enterprise_project_id",
    "key_id",
)


def conditions(
    query: ImageQuery, project: ColumnElement[str], *, is_own: bool = False
) -> list[ColumnElement[bool]]:
    """All conditions of a query but whose images they are; ``project``: which one asks.

    Of ``query`` nothing else tells it: a statement of these conditions may be kept for every project.
    ``is_own``: the images are those of the project.
    """
    return [
        status_is(query.statuses or LISTED_STATUSES),
        *_texts(query),
        *_columns(query, project),
        *_rows(query, project if is_own else None),
    ]


def _texts(query: ImageQuery) -> Iterator[ColumnElement[bool]]:
    if "*" in query.name_pattern:
        yield image.c.name.like(_like(query.name_pattern), escape="\\")
    elif query.name_pattern:
        yield image.c.name == query.name_pattern
    if query.search:
        found = is_in_texts(query.search)
        is_of_id = _OF_ID.fullmatch(query.search)
        yield or_(image.c.id.contains(query.search.lower(), autoescape=True), found) if is_of_id else found


def _columns(query: ImageQuery, project: ColumnElement[str]) -> Iterator[ColumnElement[bool]]:
    if query.disk_formats:
        yield _one_of(image.c.disk_format, list(query.disk_formats))
    for name, values in query.any_of:
        yield _one_of(image.c[name], list(values))
    for name, value in query.exactly:
        yield _has_label(project, value) if name == "enterprise_project_id" else image.c[name] == value
    if query.is_deprecated is not None:
        yield image.c.deprecated_at.is_not(None) if query.is_deprecated else image.c.deprecated_at.is_(None)
    if query.is_encrypted is not None:
        yield image.c.key_id != "" if query.is_encrypted else image.c.key_id == ""
    for asked in query.times:
        column = image.c[asked.column]
        bounds = []
        if asked.first is not None:
            bounds.append(column >= asked.first)
        if asked.end is not None:
            bounds.append(column < asked.end)
        yield not_(and_(*bounds)) if asked.is_outside else and_(*bounds)


def _rows(query: ImageQuery, project: ColumnElement[str] | None) -> Iterator[ColumnElement[bool]]:
    """``project``: whose images they are, None if they are of many."""
    for key, value in query.tags.items():
        is_tag = [image_tag.c.key == key, *([image_tag.c.value == value] if value else [])]
        yield _has_row(image_tag, is_tag, project)
    for feature, value in query.support:
        is_mark = [image_support.c.feature == feature, image_support.c.value == value]
        yield _has_row(image_support, is_mark, project)


def _has_row(
    table: Table, asked: Sequence[ColumnElement[bool]], project: ColumnElement[str] | None
) -> ColumnElement[bool]:
    """Whether an image has a row of ``table`` that is as asked.

    Of one project all such rows are found at once: to look for one image by image takes ten times as long
    where few have it. Of many projects they may be many more than there are images to look at.
    """
    if project is None:
        return exists().where(table.c.image_id == image.c.id, *asked)
    return image.c.id.in_(select(table.c.image_id).where(table.c.project_id == project, *asked))


def _has_label(project: ColumnElement[str], label: str | int | bool) -> ColumnElement[bool]:
    """Whether an image has this enterprise project. Those of others have "0": theirs are not told."""
    is_own, is_labelled = image.c.project_id == project, image.c.enterprise_project_id == label
    return or_(not_(is_own), is_labelled) if label == "0" else and_(is_own, is_labelled)


def _one_of(column: Column[str | int], values: list[str | int]) -> ColumnElement[bool]:
    return column == values[0] if len(values) == 1 else column.in_(values)


def status_is(statuses: Collection[ImageStatus]) -> ColumnElement[bool]:
    """Whether an image is in one of these statuses, asked so that a list is read in its order."""
    # Active ones are nearly all: by the index of the status they would all be sorted for a page.
    if ImageStatus.ACTIVE in statuses:
        return not_by_index(image.c.status).in_(list(statuses))
    return image.c.status.in_(list(statuses))


def _like(pattern: str) -> str:
    escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
    return re.sub(r"\*+", "%", escaped)
