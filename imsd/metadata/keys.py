"""Keys and wrapped data keys: their rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .attachment_tables import attachment
from .key_tables import data_key, encryption_key
from .rows import Marker, beyond, in_batches, to_row
from .tables import image, upload


class KeyStatus(StrEnum):
    """A key as it was last known; a deleted one is remembered while there are images under it."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PENDING_DELETION = "pending_deletion"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key of a project. ``version`` 0: it is being made in its key service, and nobody sees it."""

    id: str
    project_id: str
    name: str
    key_service: str
    state: KeyStatus
    created_at: datetime
    updated_at: datetime
    description: str = ""
    version: int = 0
    delete_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeyRecord:
    """What is kept of the data key of an image: wrapped by ``key_version`` of a key."""

    image_id: str
    key_id: str
    key_version: int
    wrapped: bytes
    created_at: datetime
    updated_at: datetime


_IS_THERE = (encryption_key.c.version > 0,)


async def insert_key(c: AsyncConnection, record: KeyRecord) -> None:
    await c.execute(insert(encryption_key).values(to_row(record)))


async def get_key(c: AsyncConnection, key_id: str) -> KeyRecord | None:
    """A key of whatever project, one that is being made included."""
    rows = select(encryption_key).where(encryption_key.c.id == key_id)
    row = (await c.execute(rows)).mappings().one_or_none()
    return None if row is None else _key(row)


async def find_key(c: AsyncConnection, project_id: str, id_or_name: str) -> KeyRecord | None:
    """A key of a project by its id or, unless it is deleted, by its name; the id counts first."""
    is_named = (encryption_key.c.name == id_or_name) & (encryption_key.c.state != KeyStatus.DELETED)
    rows = select(encryption_key).where(
        encryption_key.c.project_id == project_id,
        *_IS_THERE,
        or_(encryption_key.c.id == id_or_name, is_named),
    )
    found = [_key(row) for row in (await c.execute(rows)).mappings()]
    return next((each for each in found if each.id == id_or_name), found[0] if found else None)


async def is_name_taken(c: AsyncConnection, project_id: str, name: str, but: str = "") -> bool:
    """Whether a key that is not deleted, another than ``but``, has a name; one that is being made, too."""
    rows = exists().where(
        encryption_key.c.project_id == project_id,
        encryption_key.c.name == name,
        encryption_key.c.id != but,
        encryption_key.c.state != KeyStatus.DELETED,
    )
    return bool((await c.execute(select(rows))).scalar_one())


async def list_keys(
    c: AsyncConnection, project_id: str, states: Collection[KeyStatus], limit: int, after: Marker | None
) -> list[KeyRecord]:
    """The newest first; ``states`` empty: all. ``after``: creation time and id of the last one seen."""
    rows = select(encryption_key).where(encryption_key.c.project_id == project_id, *_IS_THERE)
    if states:
        rows = rows.where(encryption_key.c.state.in_(list(states)))
    if after is not None:
        rows = rows.where(beyond(encryption_key.c.created_at, encryption_key.c.id, after, descending=True))
    rows = rows.order_by(encryption_key.c.created_at.desc(), encryption_key.c.id.desc()).limit(limit)
    return [_key(row) for row in (await c.execute(rows)).mappings()]


async def due_keys(c: AsyncConnection, now: datetime, limit: int) -> list[KeyRecord]:
    """Keys whose time to be deleted has come, the longest over first."""
    rows = select(encryption_key).where(
        encryption_key.c.state == KeyStatus.PENDING_DELETION, encryption_key.c.delete_at <= now
    )
    rows = rows.order_by(encryption_key.c.delete_at).limit(limit)
    return [_key(row) for row in (await c.execute(rows)).mappings()]


async def update_key(c: AsyncConnection, key_id: str, values: Mapping[str, object]) -> KeyRecord | None:
    change = update(encryption_key).where(encryption_key.c.id == key_id).values(**values)
    row = (await c.execute(change.returning(encryption_key))).mappings().one_or_none()
    return None if row is None else _key(row)


async def delete_key(c: AsyncConnection, key_id: str) -> None:
    await c.execute(delete(encryption_key).where(encryption_key.c.id == key_id))


async def forget_deleted_keys(c: AsyncConnection) -> None:
    """Forget the deleted keys under which there is nothing any more."""
    is_used = exists().where(data_key.c.key_id == encryption_key.c.id)
    is_deleted = encryption_key.c.state == KeyStatus.DELETED
    await c.execute(delete(encryption_key).where(is_deleted, ~is_used))


async def forget_unmade_keys(c: AsyncConnection, before: datetime) -> None:
    """Those whose making a crash ended before a time."""
    unmade = (encryption_key.c.version == 0, encryption_key.c.created_at < before)
    await c.execute(delete(encryption_key).where(*unmade))


async def key_count(c: AsyncConnection, project_id: str) -> int:
    """Keys of a project that are not deleted, those being made included."""
    rows = select(func.count()).where(
        encryption_key.c.project_id == project_id, encryption_key.c.state != KeyStatus.DELETED
    )
    return int((await c.execute(rows)).scalar_one())


async def uses_of(c: AsyncConnection, key_ids: Sequence[str]) -> Mapping[str, int]:
    """How many data keys each key wraps; of those that wrap none nothing is said."""
    counts: dict[str, int] = {}
    for batch in in_batches(key_ids):
        rows = (
            select(data_key.c.key_id, func.count().label("uses"))
            .where(data_key.c.key_id.in_(batch))
            .group_by(data_key.c.key_id)
        )
        counts |= {row.key_id: row.uses for row in await c.execute(rows)}
    return counts


async def insert_data_key(c: AsyncConnection, record: DataKeyRecord) -> None:
    await c.execute(insert(data_key).values(to_row(record)))


async def get_data_key(c: AsyncConnection, image_id: str) -> DataKeyRecord | None:
    row = (await c.execute(select(data_key).where(data_key.c.image_id == image_id))).mappings().one_or_none()
    return None if row is None else _data_key(row)


async def older_data_keys(
    c: AsyncConnection, key_id: str, version: int, limit: int, after: str
) -> list[DataKeyRecord]:
    """Data keys that an older version of a key wraps, by the id of their image, after ``after``."""
    rows = select(data_key).where(*_is_older(key_id, version), data_key.c.image_id > after)
    rows = rows.order_by(data_key.c.image_id).limit(limit)
    return [_data_key(row) for row in (await c.execute(rows)).mappings()]


async def changed_data_keys(
    c: AsyncConnection, since: datetime | None, limit: int, after: str
) -> list[DataKeyRecord]:
    """Of images with bytes which changed, or whose data key was wrapped anew, since a time (None: all).

    By the id of the image, after ``after``.
    """
    rows = select(data_key).join(image, image.c.id == data_key.c.image_id)
    rows = rows.where(image.c.manifest_id != "", data_key.c.image_id > after)
    if since is not None:
        rows = rows.where(or_(image.c.updated_at >= since, data_key.c.updated_at >= since))
    rows = rows.order_by(data_key.c.image_id).limit(limit)
    return [_data_key(row) for row in (await c.execute(rows)).mappings()]


async def older_data_key_count(c: AsyncConnection, key_id: str, version: int) -> int:
    rows = select(func.count()).select_from(data_key).where(*_is_older(key_id, version))
    return int((await c.execute(rows)).scalar_one())


async def replace_wrapped(
    c: AsyncConnection, old: DataKeyRecord, wrapped: bytes, version: int, now: datetime
) -> bool:
    """False, and nothing changed, when the data key is gone or was wrapped anew meanwhile."""
    change = update(data_key).where(
        data_key.c.image_id == old.image_id,
        data_key.c.key_id == old.key_id,
        data_key.c.key_version == old.key_version,
    )
    values = {"wrapped": wrapped, "key_version": version, "updated_at": now}
    return bool((await c.execute(change.values(**values))).rowcount)


async def forget_data_key(c: AsyncConnection, image_id: str) -> None:
    """Forget the data key of an image that is gone, unless an upload is still to become it or it is attached.

    What is under it is lost from then on.
    """
    await c.execute(
        delete(data_key).where(
            data_key.c.image_id == image_id,
            ~exists().where(image.c.id == image_id),
            ~exists().where(upload.c.image_id == image_id),
            ~exists().where(attachment.c.binding == image_id),
        )
    )


def _is_older(key_id: str, version: int) -> tuple[ColumnElement[bool], ...]:
    return data_key.c.key_id == key_id, data_key.c.key_version < version


def _key(row: RowMapping) -> KeyRecord:
    values: dict[str, Any] = dict(row)
    return KeyRecord(**values | {"state": KeyStatus(values["state"])})


def _data_key(row: RowMapping) -> DataKeyRecord:
    return DataKeyRecord(**dict(row) | {"wrapped": bytes(row["wrapped"])})
