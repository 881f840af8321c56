"""`imsctl image import` of what the daemon fetches itself: a URL, an object, or a file of its own machine."""

from __future__ import annotations

import uuid

import typer

from imsd.v1 import image_pb2

from . import choice
from .image_import import print_images_of
from .import_options import ImportOptions
from .job_output import print_job
from .job_watch import start_own_job, watch_own_job
from .outage_notes import OutageNotes
from .session import Session


async def fetch_image(session: Session, what: str, options: ImportOptions) -> None:
    """Let the daemon make an image of ``what``: a URL or, as ``options`` say, a path or BUCKET:OBJECT.

    Raises typer.BadParameter.
    """
    request = _request(what, options)
    async with session.connect() as client:
        with session.progress() as view:
            row = OutageNotes(client, view)
            job = await start_own_job(client, lambda: client.images.create(request), row)
            if options.detach:
                print_job(session, job)
                return
            job = await watch_own_job(client, job.id, row, view)
        await print_images_of(session, client, job, options.request_id)


def _request(what: str, options: ImportOptions) -> image_pb2.CreateImageRequest:
    if options.send_bytes:
        raise typer.BadParameter("the daemon fetches it itself: no bytes are sent", param_hint="--send-bytes")
    if options.on_server and not what.startswith("/"):
        raise typer.BadParameter("give an absolute path on the daemon's machine", param_hint="--on-server")
    if options.from_bucket and (options.on_server or ":" not in what):
        raise typer.BadParameter("give BUCKET:OBJECT, and no --on-server", param_hint="--from-bucket")
    request = options.image_request()
    if options.on_server:
        request.local_path = what
    elif options.from_bucket:
        request.object = what
    else:
        request.url = what
    request.expected_sha256 = choice.sha256(options.sha256, "--sha256")
    # A repeated call gets the job of the first.
    request.request_id = options.request_id or f"imsctl-{uuid.uuid4()}"
    return request
