"""Images of what the daemon fetches itself: a URL, an object, or a file of its own machine."""

from __future__ import annotations

import uuid

import typer
from ims_client import ImsClient

from . import choice
from .image_import import print_images_of
from .image_request import ImageRequest, start_job
from .import_options import FileOptions, ImportOptions
from .own_job import run_own_job
from .session import Session


async def fetch_image(session: Session, what: str, options: ImportOptions) -> None:
    """Let the daemon make an image of ``what``: a URL or, as ``options`` say, a path or BUCKET:OBJECT.

    Raises typer.BadParameter.
    """
    request = options.image_request()
    name_source(request, what, options)
    async with session.connect() as client:
        await fetch(session, client, request, options)


async def fetch(session: Session, client: ImsClient, request: ImageRequest, options: FileOptions) -> None:
    """Let the daemon fetch what ``request`` names, and print the images, or the job if it goes on alone."""
    job = await run_own_job(session, client, lambda: start_job(client, request), is_detached=options.detach)
    if job is None:
        return
    await print_images_of(session, client, job, options.request_id)


def name_source(request: ImageRequest, what: str, options: FileOptions) -> None:
    """Let ``request`` name ``what`` as its source. Raises typer.BadParameter."""
    if options.send_bytes:
        raise typer.BadParameter("the daemon fetches it itself: no bytes are sent", param_hint="--send-bytes")
    if options.on_server and not what.startswith("/"):
        raise typer.BadParameter("give an absolute path on the daemon's machine", param_hint="--on-server")
    if options.from_bucket and (options.on_server or ":" not in what):
        raise typer.BadParameter("give BUCKET:OBJECT, and no --on-server", param_hint="--from-bucket")
    if options.on_server:
        request.local_path = what
    elif options.from_bucket:
        request.object = what
    else:
        request.url = what
    request.expected_sha256 = choice.sha256(options.sha256, "--sha256")
    # A repeated call gets the job of the first.
    request.request_id = options.request_id or f"imsctl-{uuid.uuid4()}"
