"""Changing an image: by its project, at the version that was looked at, from a status that allows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import Conflict
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import ImageRecord, ImageStatus

from . import checks
from .image_access import THERE, not_active, owned_image
from .runtime import Runtime


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that a project wants to change; ``etag`` empty: in whatever version it is."""

    project_id: str
    image_id: str
    etag: str = ""


async def image_at(
    c: AsyncConnection, ref: ImageRef, statuses: Collection[ImageStatus] = THERE
) -> ImageRecord:
    """The image as it is now. Raises InvalidRequest, NotFound, PermissionDenied (NOT_OWNER), Conflict."""
    expected = checks.etag(ref.etag)
    record = await owned_image(c, ref.project_id, ref.image_id, statuses)
    if expected is not None and expected != record.version:
        raise changed_meanwhile(record)
    return record


async def change(
    c: AsyncConnection, runtime: Runtime, current: ImageRecord, values: Mapping[str, object]
) -> ImageRecord:
    """Change ``current``, in the transaction that read it. Raises Conflict when it is not so any more."""
    updated = await image_rows.update_image(
        c,
        current.id,
        {"updated_at": runtime.clock(), **values},
        # What was checked was checked against this very version.
        expected_version=current.version,
        statuses=[current.status],
    )
    if updated is None:
        raise changed_meanwhile(current)
    if "replacement_image_id" in values:
        return updated
    # As it was shown: the row may name a replacement that is gone.
    return replace(updated, replacement_image_id=current.replacement_image_id)


async def look_for_job(c: AsyncConnection, image: ImageRecord) -> bool:
    """Whether a job that has not ended brings the bytes of an image without any."""
    if image.status is not ImageStatus.QUEUED or not image.job_id:
        return False
    return await job_rows.is_unfinished(c, image.job_id)


def changed_meanwhile(current: ImageRecord) -> Conflict:
    return Conflict(
        f"image {current.name!r} was changed meanwhile", hint="get the image again and repeat the change"
    )


def require_status(record: ImageRecord, statuses: Collection[ImageStatus]) -> None:
    """Raises FailedPrecondition (IMAGE_NOT_ACTIVE) unless the image is in one of ``statuses``."""
    if record.status not in statuses:
        raise not_active(record, "not " + " or ".join(status.value for status in statuses))
