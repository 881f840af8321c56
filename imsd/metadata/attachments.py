"""Attachments: their rows, and their holds on manifests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind

from . import chunk_index
from .attachment_tables import attachment
from .keys import forget_data_key
from .rows import Marker, beyond, to_row
from .tables import image, manifest_holder


@dataclass(frozen=True, kw_only=True)
class AttachmentRecord:
    """An image that a block server offers as a disk; the columns of the table."""

    id: str
    project_id: str
    image_id: str
    image_name: str
    export_name: str
    store: str
    manifest_id: str
    size_bytes: int
    digest: str
    binding: str = ""
    host_id: str
    host: str
    is_detaching: bool = False
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MovedImage:
    """The image of ``attachment`` lies elsewhere by now: in ``store``, by ``manifest_id``."""

    attachment: AttachmentRecord
    store: str
    manifest_id: str


def holder_of(attachment_id: str) -> Holder:
    return Holder(HolderKind.ATTACHMENT, attachment_id)


async def insert_attachment(c: AsyncConnection, record: AttachmentRecord) -> None:
    """With its hold on the manifest. Raises NotFound when that is not live."""
    await chunk_index.hold_manifest(c, holder_of(record.id), record.manifest_id)
    await c.execute(insert(attachment).values(to_row(record)))


async def get_attachment(c: AsyncConnection, attachment_id: str) -> AttachmentRecord | None:
    rows = await c.execute(select(attachment).where(attachment.c.id == attachment_id))
    row = rows.mappings().one_or_none()
    return None if row is None else _record(row)


async def list_attachments(
    c: AsyncConnection, project_id: str, image_id: str, limit: int, after: Marker | None
) -> list[AttachmentRecord]:
    """The newest first; ``image_id`` empty: of all images. ``after``: time and id of the last one seen."""
    rows = select(attachment).where(attachment.c.project_id == project_id)
    if image_id:
        rows = rows.where(attachment.c.image_id == image_id)
    if after is not None:
        rows = rows.where(beyond(attachment.c.created_at, attachment.c.id, after, descending=True))
    rows = rows.order_by(attachment.c.created_at.desc(), attachment.c.id.desc()).limit(limit)
    return [_record(row) for row in (await c.execute(rows)).mappings()]


async def attachments_of_host(
    c: AsyncConnection, host_id: str, limit: int, after_id: str = ""
) -> list[AttachmentRecord]:
    """By id."""
    rows = select(attachment).where(attachment.c.host_id == host_id, attachment.c.id > after_id)
    found = await c.execute(rows.order_by(attachment.c.id).limit(limit))
    return [_record(row) for row in found.mappings()]


async def count_attachments(c: AsyncConnection, project_id: str) -> int:
    rows = select(func.count()).select_from(attachment).where(attachment.c.project_id == project_id)
    return int((await c.execute(rows)).scalar_one())


async def moved_images(c: AsyncConnection, host_id: str, limit: int) -> list[MovedImage]:
    """Attachments of a host whose images were moved or repacked since."""
    rows = (
        select(attachment, image.c.store.label("new_store"), image.c.manifest_id.label("new_manifest"))
        .join(image, image.c.id == attachment.c.image_id)
        .where(
            attachment.c.host_id == host_id,
            attachment.c.is_detaching.is_(False),
            image.c.manifest_id != "",
            image.c.manifest_id != attachment.c.manifest_id,
        )
        .order_by(attachment.c.id)
        .limit(limit)
    )
    return [
        MovedImage(_record(row), row["new_store"], row["new_manifest"])
        for row in (await c.execute(rows)).mappings()
    ]


async def mark_detaching(c: AsyncConnection, attachment_id: str) -> None:
    change = update(attachment).where(attachment.c.id == attachment_id)
    await c.execute(change.values(is_detaching=True))


async def move_attachment(c: AsyncConnection, moved: MovedImage) -> None:
    """It reads from the new place by now: let go of the old one."""
    before = moved.attachment
    change = update(attachment).where(
        attachment.c.id == before.id, attachment.c.manifest_id == before.manifest_id
    )
    await c.execute(change.values(store=moved.store, manifest_id=moved.manifest_id))
    holds = manifest_holder.c
    is_old = (
        holds.manifest_id == before.manifest_id,
        holds.holder_kind == HolderKind.ATTACHMENT,
        holds.holder_id == before.id,
    )
    await c.execute(delete(manifest_holder).where(*is_old))


async def delete_attachment(c: AsyncConnection, attachment_id: str) -> bool:
    """With all that it holds; whether it was there."""
    await chunk_index.release_holder(c, holder_of(attachment_id))
    gone = await c.execute(
        delete(attachment).where(attachment.c.id == attachment_id).returning(attachment.c.binding)
    )
    bindings = gone.scalars().all()
    for binding in filter(None, bindings):
        await forget_data_key(c, binding)
    return bool(bindings)


def _record(row: RowMapping) -> AttachmentRecord:
    return AttachmentRecord(**{key: value for key, value in row.items() if not str(key).startswith("new_")})
