"""Tags: which keys and values there are, and which images bear them. Every query is of one project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .image_lists import matching_ids
from .image_query import ImageQuery, status_is
from .records import ImageStatus
from .rows import in_batches
from .tables import image, image_tag
from .text_search import is_in_name

# Values of one key that a list has.
MAX_LISTED_VALUES = 1000

# Rows that a page of keys is made of: what fits a message, and no more than a page.
MAX_LISTED_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TagQuery:
    """Images of a project by their tags. Of each key any of its values will do; no values: any value.

    ``has_all``, ``has_any``: images that fit all, or one, of these; ``not_all``, ``not_any``: those that do
    not. An empty one asks for nothing. ``name``: a part of the name in any case; "" is the empty name, None
    any. ``id``: None any.
    """

    project_id: str
    statuses: Sequence[ImageStatus]
    is_untagged: bool = False
    has_all: Mapping[str, Sequence[str]] = field(default_factory=dict)
    has_any: Mapping[str, Sequence[str]] = field(default_factory=dict)
    not_all: Mapping[str, Sequence[str]] = field(default_factory=dict)
    not_any: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedImage:
    id: str
    name: str
    status: ImageStatus
    tags: Mapping[str, str]


async def find_images(c: AsyncConnection, query: TagQuery, limit: int, offset: int) -> list[TaggedImage]:
    """The newest first, ``limit`` of them after the first ``offset``."""
    rows = (
        select(image.c.id, image.c.name, image.c.status)
        .where(*_conditions(query))
        .order_by(image.c.created_at.desc(), image.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    found = (await c.execute(rows)).all()
    tags = await _tags_of(c, [row.id for row in found])
    return [
        TaggedImage(id=row.id, name=row.name, status=ImageStatus(row.status), tags=tags[row.id])
        for row in found
    ]


async def count_images(c: AsyncConnection, query: TagQuery) -> int:
    counting = select(func.count()).select_from(image).where(*_conditions(query))
    return int((await c.execute(counting)).scalar_one())


async def list_keys(
    c: AsyncConnection, query: ImageQuery, limit: int, after: str
) -> tuple[Sequence[tuple[str, Sequence[str]]], bool]:
    """At most ``limit`` keys behind ``after`` that images of ``query`` bear, each with its first values.

    Fewer when there are many values. Also whether there are more keys.
    """
    is_meant = (
        image_tag.c.project_id == query.project_id,
        image_tag.c.key > after,
        image_tag.c.image_id.in_(matching_ids(query)),
    )
    # The keys first: to number the values of all keys, for a page of some, takes as long as to list them all.
    keys = select(image_tag.c.key).where(*is_meant).distinct().order_by(image_tag.c.key).limit(limit + 1)
    pairs = (
        select(image_tag.c.key, image_tag.c.value)
        .where(*is_meant, image_tag.c.key.in_(keys))
        .distinct()
        .subquery()
    )
    number = func.row_number().over(partition_by=pairs.c.key, order_by=pairs.c.value).label("number")
    numbered = select(pairs.c.key, pairs.c.value, number).subquery()
    rows = (
        select(numbered.c.key, numbered.c.value)
        .where(numbered.c.number <= MAX_LISTED_VALUES)
        .order_by(numbered.c.key, numbered.c.value)
        .limit(MAX_LISTED_ROWS)
    )
    found: dict[str, list[str]] = {}
    count = 0
    for row in await c.execute(rows):
        count += 1
        found.setdefault(row.key, []).append(row.value)
    is_cut = count == MAX_LISTED_ROWS
    if is_cut:  # the last key may have more values
        found.popitem()
    return list(found.items())[:limit], is_cut or len(found) > limit


def _conditions(query: TagQuery) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        image.c.project_id == query.project_id,
        status_is(query.statuses),
    ]
    if query.name is not None:
        conditions.append(is_in_name(query.name) if query.name else image.c.name == "")
    if query.id is not None:
        conditions.append(image.c.id == query.id)
    if query.is_untagged:
        bears_one = exists().where(image_tag.c.image_id == image.c.id)
        return [*conditions, not_(bears_one)]
    conditions += _bears(query.project_id, query.has_all)
    if query.has_any:
        conditions.append(or_(*_bears(query.project_id, query.has_any)))
    if query.not_all:
        conditions.append(not_(and_(*_bears(query.project_id, query.not_all))))
    if query.not_any:
        conditions.append(not_(or_(*_bears(query.project_id, query.not_any))))
    return conditions


def _bears(project_id: str, wanted: Mapping[str, Sequence[str]]) -> Iterator[ColumnElement[bool]]:
    """Of each key, whether an image bears it with one of its values.

    A look-up of its own for each: of several at once, an index finds no more than the project.
    """
    for key, values in wanted.items():
        bearers = select(image_tag.c.image_id).where(
            image_tag.c.project_id == project_id, image_tag.c.key == key
        )
        yield image.c.id.in_(bearers.where(image_tag.c.value.in_(values)) if values else bearers)


async def _tags_of(c: AsyncConnection, image_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    tags: dict[str, dict[str, str]] = {image_id: {} for image_id in image_ids}
    for ids in in_batches(image_ids):
        rows = select(image_tag).where(image_tag.c.image_id.in_(ids)).order_by(image_tag.c.key)
        for tag in await c.execute(rows):
            tags[tag.image_id][tag.key] = tag.value
    return tags
