"""Images: their rows, with tags and marks of support. Lists of them are in `image_lists`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from .columns import UtcDateTime, utc
from .image_query import LISTED_STATUSES
from .json_rows import as_one_value, object_of
from .keys import forget_data_key
from .records import ImageKind, ImageRecord, ImageStatus, MemberStatus, ServerKind, Visibility
from .rows import in_batches, made, plain, to_row
from .states import IMAGE_NEXT_STATES, require_move
from .tables import image, image_member, image_support, image_tag
from .text_search import search_text

# At least this much of an id stands for it.
ID_PREFIX = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")


async def insert_image(c: AsyncConnection, record: ImageRecord) -> None:
    await c.execute(insert(image).values(row_of(record)))
    await _insert_tags(c, record.id, record.project_id, record.tags)
    await _insert_support(c, record.id, record.project_id, record.server_support)


def row_of(record: ImageRecord) -> dict[str, Any]:
    """The columns of an image."""
    texts = search_text(record.name, record.os_version, record.platform)
    return to_row(record, without=["tags", "member_status"]) | {"search_text": texts}


async def get_image(c: AsyncConnection, project_id: str, image_id: str) -> ImageRecord | None:
    """The image, in any status."""
    return await first_record(
        c, select(image).where(image.c.id == image_id, image.c.project_id == project_id)
    )


async def get_seen_image(c: AsyncConnection, project_id: str, image_id: str) -> ImageRecord | None:
    """The image, in any status, if it is of the project, public, or shared with the project."""
    found = await get_seen_images(c, project_id, [image_id])
    return found[0] if found else None


async def get_seen_images(
    c: AsyncConnection, project_id: str, image_ids: Collection[str]
) -> Sequence[ImageRecord]:
    """As `get_seen_image`: those of ``image_ids``, of which there are no more than a statement takes."""
    return await tagged_records_of(c, _seen(), {"project": project_id, "image_ids": list(image_ids)})


async def seen_ids(c: AsyncConnection, project_id: str, image_ids: Collection[str]) -> set[str]:
    """Those of ``image_ids`` that `get_seen_image` finds in one of `LISTED_STATUSES`."""
    found: set[str] = set()
    for ids in in_batches(sorted(image_ids)):
        rows = await c.execute(_seen_ids(), {"project": project_id, "image_ids": ids})
        found.update(rows.scalars())
    return found


@cache
def _seen() -> TaggedRows:
    """Made once: nearly every call on an image begins with it."""
    return with_tags(_of_seen(image, image_member.c.status.label("member_status")))


@cache
def _seen_ids() -> Select[Any]:
    return _of_seen(image.c.id).where(image.c.status.in_(LISTED_STATUSES))


def _of_seen(*columns: Any) -> Select[Any]:
    project = bindparam("project", type_=image.c.project_id.type)
    joined = image.outerjoin(
        image_member, and_(image_member.c.image_id == image.c.id, image_member.c.project_id == project)
    )
    is_seen = or_(
        image.c.project_id == project,
        image.c.visibility == Visibility.PUBLIC,
        image_member.c.project_id.is_not(None),
    )
    is_asked_for = image.c.id.in_(bindparam("image_ids", expanding=True))
    return select(*columns).select_from(joined).where(is_asked_for, is_seen)


async def owner_of_image(c: AsyncConnection, image_id: str) -> str:
    """The project that has it, whoever asks; empty when there is none."""
    rows = select(image.c.project_id).where(image.c.id == image_id)
    return (await c.execute(rows)).scalar_one_or_none() or ""


async def replacement_of(c: AsyncConnection, image_id: str) -> str:
    """What it was said to be replaced by, whether that is still there or not; empty when nothing was said."""
    rows = select(image.c.replacement_image_id).where(image.c.id == image_id)
    return (await c.execute(rows)).scalar_one_or_none() or ""


async def find_images(
    c: AsyncConnection, project_id: str, name_or_id: str, limit: int = 3
) -> list[ImageRecord]:
    """The listed images of a project that a text stands for: the one with this id, else those whose id
    begins with it (4 hex digits or more) and those of this name. More than one means that it is ambiguous."""
    listed = and_(image.c.project_id == project_id, image.c.status.in_(LISTED_STATUSES))
    exact = await records_of(c, select(image).where(listed, image.c.id == name_or_id))
    if exact:
        return exact
    fits = or_(*_stands_for(name_or_id))
    return await records_of(c, select(image).where(listed, fits).order_by(image.c.id).limit(limit))


async def find_foreign_images(
    c: AsyncConnection, project_id: str, name_or_id: str, limit: int = 3
) -> list[ImageRecord]:
    """`find_images` among the images of other projects: public ones, and those that the project accepted."""
    accepted = select(image_member.c.image_id).where(
        image_member.c.project_id == project_id, image_member.c.status == MemberStatus.ACCEPTED
    )
    is_seen = or_(image.c.visibility == Visibility.PUBLIC, image.c.id.in_(accepted))
    rows = select(image).where(
        is_seen,
        image.c.project_id != project_id,
        image.c.status.in_(LISTED_STATUSES),
        or_(*_stands_for(name_or_id)),
    )
    return await records_of(c, rows.order_by(image.c.id).limit(limit))


def _stands_for(name_or_id: str) -> Iterator[ColumnElement[bool]]:
    yield image.c.name == name_or_id
    if ID_PREFIX.fullmatch(name_or_id):
        # In an id only digits, letters up to f and - follow: what an index of ids finds as one range.
        yield and_(image.c.id >= name_or_id, image.c.id < f"{name_or_id}g")


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
    if (texts := search_text(row.name, row.os_version, row.platform)) != row.search_text:
        await c.execute(update(image).where(image.c.id == image_id).values(search_text=texts))
    if "tags" in values:
        tags = values["tags"]
        assert isinstance(tags, Mapping)
        await c.execute(delete(image_tag).where(image_tag.c.image_id == image_id))
        await _insert_tags(c, image_id, row.project_id, tags)
    if "server_support" in values:
        await c.execute(delete(image_support).where(image_support.c.image_id == image_id))
        await _insert_support(c, image_id, row.project_id, row.server_support)
    return await _written(c, row)


async def delete_image_row(c: AsyncConnection, image_id: str) -> None:
    """Forget an image and its tags; of an encrypted one the data key, too: its bytes are lost then.

    Its hold on a manifest is not touched: see `chunk_index`.
    """
    await c.execute(delete(image).where(image.c.id == image_id))
    await forget_data_key(c, image_id)


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


async def first_record(c: AsyncConnection, rows: Select[Any]) -> ImageRecord | None:
    found = await records_of(c, rows.limit(1))
    return found[0] if found else None


async def records_of(c: AsyncConnection, rows: Select[Any]) -> list[ImageRecord]:
    """The images of ``rows``, which have all columns of `image`, or all but ``guest``."""
    return await tagged_records_of(c, with_tags(rows), {})


@dataclass(frozen=True, slots=True)
class TaggedRows:
    """A query for images and their tags, all as one value, and the ``names`` of its columns."""

    statement: Select[Any]
    names: Sequence[str]


def with_tags(rows: Select[Any]) -> TaggedRows:
    """What `tagged_records_of` takes, to be kept and executed several times."""
    tagged = rows.add_columns(_TAGS)
    return TaggedRows(as_one_value(tagged), tuple(tagged.selected_columns.keys()))


async def tagged_records_of(
    c: AsyncConnection, rows: TaggedRows, parameters: Mapping[str, Any]
) -> list[ImageRecord]:
    found = (await c.execute(rows.statement, parameters)).scalar_one()
    return [_record(_typed(dict(zip(rows.names, entry, strict=True)))) for entry in found or ()]


async def _written(c: AsyncConnection, row: Row[Any]) -> ImageRecord:
    """The image of a row as it was just written."""
    tags = (await c.execute(select(_TAGS).where(image.c.id == row.id))).scalar_one()
    return _record(row._asdict() | {"tags": tags})


async def due_images(c: AsyncConnection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Make at most ``limit`` images DELETED whose grace time is over: the id and store of each."""
    is_due = and_(image.c.status == ImageStatus.PENDING_DELETE, image.c.purge_at <= now)
    due = select(image.c.id).where(is_due).limit(limit)
    require_move(IMAGE_NEXT_STATES, [ImageStatus.PENDING_DELETE], ImageStatus.DELETED)
    change = update(image).where(is_due, image.c.id.in_(due)).values(status=ImageStatus.DELETED)
    return [(row.id, row.store) for row in await c.execute(change.returning(image.c.id, image.c.store))]


def _typed(columns: dict[str, Any]) -> dict[str, Any]:
    """``columns``, in which JSON has other types than the table."""
    for name in _TIMES:
        if (text := columns[name]) is not None:
            columns[name] = utc(datetime.fromisoformat(text))
    for name in _FLAGS:
        columns[name] = bool(columns[name])
    return columns


_TIMES = tuple(column.name for column in image.c if isinstance(column.type, UtcDateTime))
_FLAGS = tuple(column.name for column in image.c if isinstance(column.type, Boolean))


def _record(columns: dict[str, Any]) -> ImageRecord:
    """Makes a record of ``columns``, which becomes a part of it."""
    columns["status"] = _STATUSES[columns["status"]]
    columns["kind"] = _KINDS[columns["kind"]]
    columns["visibility"] = _VISIBILITIES[columns["visibility"]]
    columns["server_kind"] = _SERVER_KINDS[columns["server_kind"]]
    columns["findings"] = tuple(columns["findings"])
    columns["agents"] = tuple(columns["agents"])
    member = columns.get("member_status")
    columns["member_status"] = MemberStatus(member) if member else None
    columns["tags"] = columns["tags"] or {}
    columns.setdefault("guest", {})
    columns.pop("search_text", None)
    return made(ImageRecord, columns)


# By value: to call the enum takes five times as long, and a page of images has thousands of them.
_STATUSES = {one.value: one for one in ImageStatus}
_KINDS = {one.value: one for one in ImageKind}
_VISIBILITIES = {one.value: one for one in Visibility}
_SERVER_KINDS = {one.value: one for one in ServerKind}

# Of one row with the image: a query of its own for the tags of a page costs as much as the page.
_TAGS = (
    select(object_of(image_tag.c.key, image_tag.c.value))
    .where(image_tag.c.image_id == image.c.id)
    .correlate(image)
    .scalar_subquery()
    .label("tags")
)
