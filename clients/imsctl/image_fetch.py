"""`imsctl image import` of what the daemon fetches itself: a URL, an object, or a file of its own machine."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress

import typer
from ims_client import ClientError, ImsClient, patiently

from imsd.v1 import image_pb2, job_pb2

from . import choice
from .image_import import print_images_of
from .import_options import ImportOptions
from .job_output import print_job
from .job_watch import cancel_own_job, watch_own_job
from .outage_notes import OutageNotes
from .progress import ProgressRow
from .session import Interrupted, Session

# An answer that is on its way when Ctrl-C comes names the job to cancel.
ANSWER_SECONDS = 5.0


async def fetch_image(session: Session, what: str, options: ImportOptions) -> None:
    """Let the daemon make an image of ``what``: a URL or, as ``options`` say, a path or BUCKET:OBJECT.

    Raises typer.BadParameter.
    """
    request = _request(what, options)
    async with session.connect() as client:
        with session.progress() as view:
            row = OutageNotes(client, view)
            job = await _start(client, request, row)
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


async def _start(client: ImsClient, request: image_pb2.CreateImageRequest, row: ProgressRow) -> job_pb2.Job:
    """Start the job; broken off meanwhile, it is cancelled. Raises Interrupted, CallFailed."""
    starting = asyncio.create_task(patiently(lambda: client.images.create(request), client.backoff()))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(ClientError, TimeoutError):
            job = await asyncio.wait_for(starting, ANSWER_SECONDS)
            raise await cancel_own_job(client, job.id, row) from None
        raise Interrupted("interrupted: no job was started") from None
