"""What a project sees of the images of all projects, and what it may change: the one place that decides it.

A project sees its own images, the public ones, and those that another project shares with it, whatever it
answered to that. It changes only its own (contract §9.1). An image that it does not see is not there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import NotFound, PermissionDenied
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord, ImageStatus

from . import checks

# An image in any other status is gone, for whoever asks for it.
THERE = frozenset({ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.ACTIVE, ImageStatus.DEACTIVATED})


async def seen_image(
    c: AsyncConnection, project_id: str, image_id: str, statuses: Collection[ImageStatus] = THERE
) -> ImageRecord:
    """An image of the project, a public one or one with the project as a member, whatever its answer.

    ``member_status`` of the record says whether it is one. Only images in one of ``statuses`` are there.
    Raises InvalidRequest, NotFound.
    """
    project_id, image_id = checks.project_id(project_id), checks.uuid("image_id", image_id)
    record = await image_rows.get_seen_image(c, project_id, image_id)
    if record is None or record.status not in statuses:
        raise NotFound(
            f"there is no image {image_id} in project {project_id}", hint="list the images of the project"
        )
    return as_seen_by(project_id, record)


async def owned_image(
    c: AsyncConnection, project_id: str, image_id: str, statuses: Collection[ImageStatus] = THERE
) -> ImageRecord:
    """An image of the project. Raises InvalidRequest, NotFound, PermissionDenied (NOT_OWNER)."""
    record = await seen_image(c, project_id, image_id, statuses)
    require_owner(project_id, record)
    return record


def require_owner(project_id: str, record: ImageRecord) -> None:
    """Raises PermissionDenied (NOT_OWNER; IMG.0047)."""
    if record.project_id != checks.project_id(project_id):
        raise PermissionDenied(
            f"image {record.name!r} is another project's: only that project may do this",
            reason="NOT_OWNER",
            field="image_id",
            hint="ask its owner, or copy the image and go on with the copy",
        )


def as_seen_by(project_id: str, record: ImageRecord) -> ImageRecord:
    """``record`` without what concerns its owner alone, for another project."""
    if record.project_id == project_id:
        return record
    return replace(record, origin="", job_id="", enterprise_project_id="0", new_size=0)
