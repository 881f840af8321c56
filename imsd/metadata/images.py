"""Images: their rows and tags. Every query is of one project."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .records import ImageKind, ImageRecord, ImageStatus, MemberStatus, ServerKind, Visibility
from .rows import Marker, beyond, in_batches, plain, to_row
from .states import IMAGE_NEXT_STATES, require_move
from .tables import image, image_member, image_support, image_tag

# What a caller sees unless it asks for more.
LISTED_STATUSES = (ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.ACTIVE)

SORT_COLUMNS = ("created_at", "updated_at", "name", "virtual_size", "status")

# At least this much of an id stands for it.
ID_PREFIX = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuery:
    """Which images of a project, in which order.

    ``name_pattern``: ``*`` stands for any characters; empty: all. ``statuses`` empty: `LISTED_STATUSES`.
    ``tags``: all must be there, an empty value fits any value. ``order_by``: one of `SORT_COLUMNS`.
    """

    project_id: str
    name_pattern: str = ""
    statuses: Collection[ImageStatus] = ()
    disk_formats: Collection[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    order_by: str = "created_at"
    descending: bool = True


async def insert_image(c: AsyncConnection, record: ImageRecord) -> None:
    await c.execute(insert(image).values(to_row(record, without=["tags", "member_status"])))
    await _insert_tags(c, record.id, record.project_id, record.tags)
    await _insert_support(c, record.id, record.project_id, record.server_support)


async def get_image(c: AsyncConnection, project_id: str, image_id: str) -> ImageRecord | None:
    """The image, in any status."""
    found = await _records(c, select(image).where(image.c.id == image_id, image.c.project_id == project_id))
    return found[0] if found else None


async def get_seen_image(c: AsyncConnection, project_id: str, image_id: str) -> ImageRecord | None:
    """The image, in any status, if it is of the project, public, or shared with the project."""
    found = await get_seen_images(c, project_id, [image_id])
    return found[0] if found else None


async def get_seen_images(
    c: AsyncConnection, project_id: str, image_ids: Collection[str]
) -> Sequence[ImageRecord]:
    """As `get_seen_image`: those of ``image_ids``, of which there are no more than a statement takes."""
    member = image_member.c.status.label("member_status")
    joined = image.outerjoin(
        image_member, and_(image_member.c.image_id == image.c.id, image_member.c.project_id == project_id)
    )
    is_seen = or_(
        image.c.project_id == project_id,
        image.c.visibility == Visibility.PUBLIC,
        image_member.c.project_id.is_not(None),
    )
    rows = select(image, member).select_from(joined).where(image.c.id.in_(list(image_ids)), is_seen)
    return await _records(c, rows)


async def owner_of_image(c: AsyncConnection, image_id: str) -> str:
    """The project that has it, whoever asks; empty when there is none."""
    rows = select(image.c.project_id).where(image.c.id == image_id)
    return (await c.execute(rows)).scalar_one_or_none() or ""


async def find_images(
    c: AsyncConnection, project_id: str, name_or_id: str, limit: int = 3
) -> list[ImageRecord]:
    """The listed images that a text stands for: the one with this id, else those whose id begins with
    it (4 hex digits or more) and those of this name. More than one means that it is ambiguous."""
    listed = and_(image.c.project_id == project_id, image.c.status.in_(LISTED_STATUSES))
    exact = await _records(c, select(image).where(listed, image.c.id == name_or_id))
    if exact:
        return exact
    fits: ColumnElement[bool] = image.c.name == name_or_id
    if ID_PREFIX.fullmatch(name_or_id):
        fits = or_(fits, image.c.id.like(f"{name_or_id}%"))
    return await _records(c, select(image).where(listed, fits).order_by(image.c.id).limit(limit))


async def list_images(
    c: AsyncConnection, query: ImageQuery, limit: int, after: Marker | None
) -> list[ImageRecord]:
    """At most ``limit`` images that come after ``after``: the sort value and id of the last one seen."""
    if query.order_by not in SORT_COLUMNS:
        raise ValueError(f"images are not sorted by {query.order_by}")
    column = image.c[query.order_by]
    rows = select(image).where(*_conditions(query))
    if after is not None:
        rows = rows.where(beyond(column, image.c.id, after, descending=query.descending))
    order = (column.desc(), image.c.id.desc()) if query.descending else (column, image.c.id)
    return await _records(c, rows.order_by(*order).limit(limit))


def matching_ids(query: ImageQuery) -> Select[tuple[str]]:
    """The ids of the images of ``query``, as part of another query."""
    return select(image.c.id).where(*_conditions(query))


async def update_image(
    c: AsyncConnection,
    image_id: str,
    values: Mapping[str, object],
    *,
    expected_version: int | None = None,
    statuses: Collection[ImageStatus],
) -> ImageRecord | None:
    """Change an image that is in one of ``statuses`` (and at ``expected_version``); None if it is not.

    ``values`` are columns; ``tags`` replaces all tags, ``server_support`` all marks of support;
    ``updated_at`` is the caller's to give. A status
    that is already the wanted one may stay, otherwise `IMAGE_NEXT_STATES` holds.
    """
    if "status" in values:
        status = ImageStatus(str(values["status"]))
        if others := [old for old in statuses if old is not status]:
            require_move(IMAGE_NEXT_STATES, others, status)
    columns = {key: plain(value) for key, value in values.items() if key != "tags"}
    change = update(image).where(image.c.id == image_id, image.c.status.in_(list(statuses)))
    if expected_version is not None:
        change = change.where(image.c.version == expected_version)
    row = (
        await c.execute(change.values(**columns, version=image.c.version + 1).returning(image))
    ).one_or_none()
    if row is None:
        return None
    if "tags" in values:
        tags = values["tags"]
        assert isinstance(tags, Mapping)
        await c.execute(delete(image_tag).where(image_tag.c.image_id == image_id))
        await _insert_tags(c, image_id, row.project_id, tags)
    if "server_support" in values:
        await c.execute(delete(image_support).where(image_support.c.image_id == image_id))
        await _insert_support(c, image_id, row.project_id, row.server_support)
    return (await _with_tags(c, [row]))[0]


async def delete_image_row(c: AsyncConnection, image_id: str) -> None:
    """Forget an image and its tags. Its hold on a manifest is not touched: see `chunk_index`."""
    await c.execute(delete(image).where(image.c.id == image_id))


def _conditions(query: ImageQuery) -> list[ColumnElement[bool]]:
    statuses = query.statuses or LISTED_STATUSES
    conditions = [image.c.project_id == query.project_id, _status_is(statuses)]
    if "*" in query.name_pattern:
        conditions.append(image.c.name.like(_like(query.name_pattern), escape="\\"))
    elif query.name_pattern:
        conditions.append(image.c.name == query.name_pattern)
    if query.disk_formats:
        conditions.append(image.c.disk_format.in_(list(query.disk_formats)))
    for key, value in query.tags.items():
        tag = exists().where(image_tag.c.image_id == image.c.id, image_tag.c.key == key)
        conditions.append(tag.where(image_tag.c.value == value) if value else tag)
    return conditions


def _status_is(statuses: Collection[ImageStatus]) -> ColumnElement[bool]:
    if ImageStatus.ACTIVE in statuses:
        # Nearly all images: the expression keeps SQLite from taking the index of the status, which
        # would make it sort them all instead of reading one page in order.
        return func.coalesce(image.c.status, "").in_(list(statuses))
    return image.c.status.in_(list(statuses))


def _like(pattern: str) -> str:
    escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
    return re.sub(r"\*+", "%", escaped)


async def _insert_tags(c: AsyncConnection, image_id: str, project_id: str, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [
            {"image_id": image_id, "project_id": project_id, "key": key, "value": value}
            for key, value in tags.items()
        ]
        await c.execute(insert(image_tag), rows)


async def _insert_support(
    c: AsyncConnection, image_id: str, project_id: str, support: Mapping[str, object]
) -> None:
    """Each mark that is set, so that it can be looked for; of a flag the value is ``true``."""
    rows = [
        {
            "image_id": image_id,
            "project_id": project_id,
            "feature": feature,
            "value": "true" if value is True else str(value),
        }
        for feature, value in support.items()
        if value
    ]
    if rows:
        await c.execute(insert(image_support), rows)


async def _records(c: AsyncConnection, rows: Select[Any]) -> list[ImageRecord]:
    return await _with_tags(c, (await c.execute(rows)).all())


async def _with_tags(c: AsyncConnection, rows: Sequence[Row[Any]]) -> list[ImageRecord]:
    tags: dict[str, dict[str, str]] = {row.id: {} for row in rows}
    for ids in in_batches(list(tags)):
        query = select(image_tag).where(image_tag.c.image_id.in_(ids)).order_by(image_tag.c.key)
        for tag in (await c.execute(query)).all():
            tags[tag.image_id][tag.key] = tag.value
    return [_record(row, tags[row.id]) for row in rows]


def _record(row: Row[Any], tags: Mapping[str, str]) -> ImageRecord:
    columns = dict(row._mapping)
    columns["status"] = ImageStatus(columns["status"])
    columns["kind"] = ImageKind(columns["kind"])
    columns["visibility"] = Visibility(columns["visibility"])
    columns["server_kind"] = ServerKind(columns["server_kind"])
    columns["findings"] = tuple(columns["findings"])
    columns["agents"] = tuple(columns["agents"])
    if member := columns.get("member_status"):
        columns["member_status"] = MemberStatus(member)
    return ImageRecord(**columns, tags=tags)
