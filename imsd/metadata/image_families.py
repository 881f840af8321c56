"""Families of images: of each the newest that is to be used."""

from __future__ import annotations

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .images import first_record
from .records import ImageRecord, ImageStatus, MemberStatus, Visibility
from .tables import image, image_member


async def newest_of(
    c: AsyncConnection, project_id: str, family: str, architecture: str = ""
) -> ImageRecord | None:
    """The newest image of a family that is ACTIVE and not deprecated: own, else public, else accepted.

    ``architecture`` empty: any.
    """
    fits: list[ColumnElement[bool]] = [
        image.c.family == family,
        image.c.status == ImageStatus.ACTIVE,
        image.c.deprecated_at.is_(None),
    ]
    if architecture:
        fits.append(image.c.architecture == architecture)
    accepted = select(image_member.c.image_id).where(
        image_member.c.project_id == project_id, image_member.c.status == MemberStatus.ACCEPTED
    )
    for place in (
        image.c.project_id == project_id,
        image.c.visibility == Visibility.PUBLIC,
        image.c.id.in_(accepted),
    ):
        newest = select(image).where(place, *fits).order_by(image.c.created_at.desc(), image.c.id.desc())
        if found := await first_record(c, newest):
            return found
    return None
