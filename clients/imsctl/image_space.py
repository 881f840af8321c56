"""`imsctl image space`."""

from __future__ import annotations

from .command import command
from .image_app import ImageArgument, app
from .session import Session
from .space_output import print_image_space


@command(app, "space", example=["imsctl image space debian-12", "imsctl image space debian-12 -o json"])
async def space(session: Session, image: ImageArgument) -> None:
    """Show what an image takes in its store, and what would go with it alone."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image_space(session, found, await client.images.space(found.id))
