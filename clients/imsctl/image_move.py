"""`imsctl image move`: an image goes into another store, and is used as ever meanwhile."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from imsd.v1 import image_pb2, job_pb2

from . import wording
from .command import command
from .image_app import ImageArgument, app
from .json_fields import job_fields
from .output import print_fields, print_json
from .own_job import run_own_job
from .session import Session


@command(app, "move", example=["imsctl image move debian-12 --to archive"])
async def move(
    session: Session,
    image: ImageArgument,
    to: Annotated[str, typer.Option(metavar="STORE", help="The store where it is to lie.")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the job is started; print it.")
    ] = False,
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="Start at most one job; a repeat gets the one that was started.")
    ] = "",
) -> None:
    """Move the bytes of an image into another store; its id, its readers and its copies stay as they are."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        # A repeated call gets the job of the first.
        request = image_pb2.MoveImageRequest(
            image_id=found.id, store=to, request_id=request_id or f"imsctl-{uuid.uuid4()}"
        )
        job = await run_own_job(session, client, lambda: client.images.move(request), is_detached=detach)
        if job is None:
            return
    _print_report(session, found, job)


def _print_report(session: Session, image: image_pb2.Image, job: job_pb2.Job) -> None:
    if session.is_json:
        print_json(job_fields(job))
        return
    report = job.move_report
    copied = f"{wording.size(report.copied_bytes)} of it copied, the rest was there"
    print_fields(
        {
            "image": f"{image.name} {image.id}",
            "store": f"{report.store}, before {report.from_store}",
            "stored": f"{wording.size(report.stored_bytes)}, {copied}",
        }
    )
