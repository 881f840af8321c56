"""`imsctl image register`: a file for an image that was made without bytes."""

from __future__ import annotations

from imsd.v1 import image_pb2

from . import image_fetch, image_import
from .file_argument import refuse_scheme, scheme_of
from .import_options import FileOptions
from .session import Session


async def register_image(session: Session, name: str, what: str, options: FileOptions) -> None:
    """Fill the image ``name`` with ``what``: a path, ``-``, a URL, or as ``options`` say.

    Raises typer.BadParameter.
    """
    scheme = "" if options.is_fetched() else scheme_of(what)
    refuse_scheme(scheme, "FILE|URL")
    request = image_pb2.RegisterImageRequest(request_id=options.request_id, store=options.store)
    is_fetched = options.is_fetched() or bool(scheme)
    if is_fetched:
        image_fetch.name_source(request, what, options)
    async with session.connect() as client:
        image = await client.images.resolve(name)
        request.image_id = image.id
        if is_fetched:
            await image_fetch.fetch(session, client, request, options)
        else:
            upload = options.upload_options(image.disk_format)
            await image_import.send_file(session, client, what, request, upload, detach=options.detach)
