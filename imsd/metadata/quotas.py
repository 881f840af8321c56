"""Quotas: what projects have of their own, and how much of each resource is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .keys import key_count
from .quota_tables import quota_override
from .records import ImageStatus, MemberStatus, Visibility
from .tables import image, image_member
from .uploads import open_upload_count, staged_total

# Images that count: those of a store, and those on their way there. Deleted ones do not, though they may
# come back; whoever brings one back reserves again.
COUNTED_STATUSES = (ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.ACTIVE, ImageStatus.DEACTIVATED)


# An image with a member is SHARED (see `members`): the few of a project that are so, an index finds.
_IS_SHARED = (image.c.status.in_(COUNTED_STATUSES), image.c.visibility == Visibility.SHARED)


async def get_quota(c: AsyncConnection, project_id: str, resource: str) -> int | None:
    """The project's own quota; None when it has none."""
    query = select(quota_override.c.quota).where(
        quota_override.c.project_id == project_id, quota_override.c.resource == resource
    )
    return (await c.execute(query)).scalar_one_or_none()


async def own_quotas(c: AsyncConnection, project_id: str) -> Mapping[str, int]:
    """The project's own quotas, by resource."""
    query = select(quota_override.c.resource, quota_override.c.quota).where(
        quota_override.c.project_id == project_id
    )
    return {row.resource: row.quota for row in await c.execute(query)}


async def set_quota(
    c: AsyncConnection, project_id: str, resource: str, quota: int | None, now: datetime
) -> None:
    """Give a project a quota of its own, or with None take it away."""
    await c.execute(
        delete(quota_override).where(
            quota_override.c.project_id == project_id, quota_override.c.resource == resource
        )
    )
    if quota is not None:
        row = {"project_id": project_id, "resource": resource, "quota": quota, "updated_at": now}
        await c.execute(insert(quota_override).values(row))


async def used(c: AsyncConnection, project_id: str, resource: str) -> int:
    """How much of a resource a project uses."""
    return await _USED[resource](c, project_id)


async def _images(c: AsyncConnection, project_id: str) -> int:
    query = select(func.count()).where(
        image.c.project_id == project_id,
        image.c.status.in_(COUNTED_STATUSES),
        image.c.visibility != Visibility.PUBLIC,
    )
    return int((await c.execute(query)).scalar_one())


async def _shared_images(c: AsyncConnection, project_id: str) -> int:
    """Contract §6.2: a share that is pending does not count."""
    query = (
        select(func.count(image.c.id.distinct()))
        .join(image_member, image_member.c.image_id == image.c.id)
        .where(
            image.c.project_id == project_id,
            *_IS_SHARED,
            image_member.c.status == MemberStatus.ACCEPTED,
        )
    )
    return int((await c.execute(query)).scalar_one())


async def _image_members(c: AsyncConnection, project_id: str) -> int:
    """Contract §6.2: a share that is pending does not count."""
    query = (
        select(func.count())
        .select_from(image_member)
        .join(image, image_member.c.image_id == image.c.id)
        .where(
            image.c.project_id == project_id,
            *_IS_SHARED,
            image_member.c.status == MemberStatus.ACCEPTED,
        )
    )
    return int((await c.execute(query)).scalar_one())


_USED: Mapping[str, Callable[[AsyncConnection, str], Awaitable[int]]] = {
    "images": _images,
    "uploads": open_upload_count,
    "staged_bytes": staged_total,
    "shared_images": _shared_images,
    "image_members": _image_members,
    "encryption_keys": key_count,
}
