"""`imsctl image copy`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Annotated

import typer

from imsd.v1 import image_pb2

from . import choice
from .image_ids import ids_of_images
from .image_output import print_image
from .job_output import print_job
from .job_watch import watch_own_job
from .session import Session


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the copy.")]
    description: Annotated[str, typer.Option(metavar="TEXT", help="What the copy is.")] = ""
    tag: Annotated[list[str], typer.Option(metavar="K=V", help="A tag; may be repeated.")] = field(
        default_factory=list
    )
    enterprise_project: Annotated[str, typer.Option(metavar="ID", help="0, or a UUID: who pays.")] = ""
    store: Annotated[
        str, typer.Option(metavar="NAME", help="Where the copy is to lie; else where the image does.")
    ] = ""
    encrypt_with: Annotated[
        str,
        typer.Option(
            metavar="KEY", help="Id or name of a key: the copy is encrypted under it; without, it is not."
        ),
    ] = ""
    detach: Annotated[bool, typer.Option("--detach", help="Return when the job is started; print it.")] = (
        False
    )
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="At most one copy, however often this is repeated.")
    ] = ""


async def copy_image(session: Session, image: str, options: CopyOptions) -> None:
    """Start the copy, wait for it and print it."""
    request = image_pb2.CopyImageRequest(
        name=options.name,
        description=options.description,
        tags=choice.key_values(options.tag, "--tag"),
        enterprise_project_id=options.enterprise_project,
        key=options.encrypt_with,
        store=options.store,
        request_id=options.request_id or f"imsctl-{uuid.uuid4()}",
    )
    async with session.connect() as client:
        [request.image_id] = await ids_of_images(client, [image])
        job = await client.images.copy(request)
        if options.detach:
            print_job(session, job)
            return
        with session.progress() as view:
            job = await watch_own_job(client, job.id, view.row())
        print_image(session, await client.images.get(job.image_ids[0]))
