"""`imsctl image attach` and `imsctl image detach`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import attachment_group
from .command import command
from .image_app import ImageArgument, app
from .session import Session


@command(app, "attach", example="imsctl image attach debian-12")
async def attach(session: Session, image: ImageArgument) -> None:
    """Offer an image as a disk on the daemon's machine: read at once, fetched while it is read.

    The disk is read-only and speaks NBD on a unix socket, for qemu, libvirt, nbdinfo and the like. It stays
    until it is detached, whatever becomes of the image.
    """
    await attachment_group.attach(session, image)


@command(app, "detach", example="imsctl image detach debian-12")
async def detach(
    session: Session,
    attachments: Annotated[
        list[str],
        typer.Argument(
            metavar="ATTACHMENT...", help="Ids of attachments, their first characters, or images."
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Also if it is in use: cut clients off.")] = False,
) -> int:
    """End attachments; goes on after a failure, and exits 1 then."""
    return await attachment_group.detach(session, attachments, force=force)
