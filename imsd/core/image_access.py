"""What a project sees of the images of all projects, and what it may change: the one place that decides it.

A project sees its own images, the public ones, and those that another project shares with it, whatever it
answered to that. It changes only its own (contract §9.1). An image that it does not see is not there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition, NotFound, PermissionDenied
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord, ImageStatus, MemberStatus

from . import checks

# An image in any other status is gone, for whoever asks for it.
THERE = frozenset({ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.ACTIVE, ImageStatus.DEACTIVATED})


async def seen_image(
    c: AsyncConnection,
    project_id: str,
    image_id: str,
    statuses: Collection[ImageStatus] = THERE,
    *,
    field: str = "image_id",
) -> ImageRecord:
    """An image of the project, a public one or one with the project as a member, whatever its answer.

    ``member_status`` of the record says whether it is one. Only images in one of ``statuses`` are there.
    ``field``: of the request, that names the image.
    Raises InvalidRequest, NotFound.
    """
    project_id, image_id = checks.project_id(project_id), checks.uuid(field, image_id)
    record = await image_rows.get_seen_image(c, project_id, image_id)
    if record is None or record.status not in statuses:
        raise no_image(project_id, image_id, field)
    [seen] = await with_replacements(c, project_id, [as_seen_by(project_id, record)])
    return seen


async def seen_images(
    c: AsyncConnection, project_id: str, image_ids: Collection[str]
) -> Mapping[str, ImageRecord]:
    """As `seen_image`, of ids that were checked; those that are not there are left out."""
    found = await image_rows.get_seen_images(c, project_id, image_ids)
    return {record.id: as_seen_by(project_id, record) for record in found if record.status in THERE}


def no_image(project_id: str, image_id: str, field: str = "image_id") -> NotFound:
    """The same whether there is none or the project does not see it."""
    return NotFound(
        f"there is no image {image_id} in project {project_id}",
        field=field,
        hint="list the images of the project",
    )


async def usable_image(c: AsyncConnection, project_id: str, image_id: str) -> ImageRecord:
    """An image whose bytes the project may read or copy now: active, and accepted if it is shared with it.

    One that the project rejected can be made servers of by its id, and nothing else (contract §6.2).
    Raises InvalidRequest, NotFound, FailedPrecondition (SHARE_NOT_ACCEPTED, IMG.0196; IMAGE_NOT_ACTIVE).
    """
    record = await seen_image(c, project_id, image_id)
    require_usable(project_id, record)
    return record


def require_usable(project_id: str, record: ImageRecord) -> None:
    """As `usable_image`, of an image that the project sees. Raises FailedPrecondition."""
    if record.member_status not in (None, MemberStatus.ACCEPTED):
        raise FailedPrecondition(
            f"project {checks.project_id(project_id)} did not accept image {record.name!r}",
            reason="SHARE_NOT_ACCEPTED",
            field="image_id",
            hint="accept the image first",
        )
    require_active(record)


def require_active(record: ImageRecord) -> None:
    """Raises FailedPrecondition (IMAGE_NOT_ACTIVE; IMG.0046)."""
    if record.status is not ImageStatus.ACTIVE:
        raise not_active(record, "not active")


def not_active(record: ImageRecord, why: str, field: str = "image_id") -> FailedPrecondition:
    """The refusal of an image whose status does not do: IMAGE_NOT_ACTIVE."""
    hint = "wait until it is made"
    if record.status is ImageStatus.DEACTIVATED:
        hint = "its owner can reactivate it"
    elif record.is_prepared:
        hint = "it has no bytes yet: give it some with `imsctl image register`, or wait for the job that does"
    return FailedPrecondition(
        f"image {record.name!r} is {record.status}, {why}",
        reason="IMAGE_NOT_ACTIVE",
        field=field,
        hint=hint,
    )


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
    return replace(record, origin="", origin_image_id="", job_id="", enterprise_project_id="0", new_size=0)


async def with_replacements(
    c: AsyncConnection, project_id: str, records: Sequence[ImageRecord]
) -> Sequence[ImageRecord]:
    """``records``, naming only replacements that are there and that the project sees.

    A replacement was there when it was named, and its owner saw it. The row keeps its id: it may be brought
    back, or be shown to more projects.
    """
    named = {record.replacement_image_id for record in records} - {""}
    if not named:
        return records
    there = await image_rows.seen_ids(c, project_id, named) | {""}
    return [
        record if record.replacement_image_id in there else replace(record, replacement_image_id="")
        for record in records
    ]
