"""`imsctl upload`: what was sent, or is being sent, but is no image yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from ims_client import (
    CallFailed,
    ClientError,
    FileSource,
    ImsClient,
    LocalFileFailed,
    UploadOptions,
    open_source,
    send_upload,
)
from ims_client.upload_file import mark_of_file

from imsd.v1 import upload_pb2

from . import wording
from .command import command, group
from .json_fields import disk_format, enum_text, upload_fields
from .outage_notes import OutageNotes
from .output import print_fields, print_json, print_table
from .progress import TransferMeter
from .session import FAILED, Interrupted, Session, print_failure

app = group("Files on their way in.", "imsctl upload list")


@command(app, "list", example="imsctl upload list")
async def list_(session: Session) -> None:
    """Show the uploads of the project, newest first."""
    async with session.connect() as client:
        found = [upload async for upload in client.uploads.list()]
    if session.is_json:
        print_json([upload_fields(upload) for upload in found])
    else:
        _print_table(found)


@command(app, "resume", example="imsctl upload resume 8d7f6a34-9a53-4d3c-8a4b-5c0c3a2f7b10 disk.raw")
async def resume(
    session: Session,
    upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="The id of an upload.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file that was being sent.")],
) -> None:
    """Send the rest of a file and complete its upload.

    `imsctl image import` does this by itself when it is repeated; then it makes the image.
    """
    async with session.connect() as client:
        current = await client.uploads.get(upload)
        if current.state == upload_pb2.UPLOAD_STATE_OPEN:
            current = await _send_rest(session, client, current, file)
        else:
            session.note(_nothing_to_send(current))
    if session.is_json:
        print_json(upload_fields(current))
    else:
        _print_upload(current)


async def _send_rest(
    session: Session, client: ImsClient, upload: upload_pb2.Upload, file: str
) -> upload_pb2.Upload:
    """The upload, complete."""
    from imsd.chunks.tree_digest import TreeHasher

    with open_source(file) as source, session.progress() as view:
        _check_same(upload, source, file)
        row = OutageNotes(client, view)
        meter = TransferMeter("upload", source.size_bytes, upload.committed_offset)
        options = UploadOptions(new_hasher=TreeHasher)
        try:
            return await send_upload(
                client, upload, source, options, lambda offset: row.show(meter.at(offset))
            )
        except asyncio.CancelledError:
            hint = "repeat the command to go on"
            raise Interrupted("interrupted: the upload is kept", hint) from None


@command(app, "abort", example="imsctl upload abort 8d7f6a34-9a53-4d3c-8a4b-5c0c3a2f7b10")
async def abort(
    session: Session,
    uploads: Annotated[list[str], typer.Argument(metavar="UPLOAD...", help="Ids of uploads.")],
) -> int:
    """Give uploads up and free their bytes; goes on after a failure, and exits 1 then."""
    aborted, failures = [], 0
    async with session.connect() as client:
        for upload_id in uploads:
            try:
                await client.uploads.delete(upload_id)
            except CallFailed as error:
                if error.reason == "DAEMON_UNREACHABLE":
                    raise
                failures += 1
                print_failure(error.message, error.hint, error.reason)
                continue
            aborted.append({"id": upload_id})
            if not session.is_json:
                print(f"aborted {upload_id}")
    if session.is_json:
        print_json(aborted)
    return FAILED if failures else 0


def _check_same(upload: upload_pb2.Upload, source: object, file: str) -> None:
    """Raises ClientError when ``file`` cannot be what was being sent.

    Found out only at the commit, it would cost the upload: the daemon discards bytes that are of no one file.
    """
    if not isinstance(source, FileSource):
        raise LocalFileFailed(f"{file} is a stream, which cannot be resumed", "name the file that was sent")
    if upload.size_bytes and upload.size_bytes != source.size_bytes:
        raise LocalFileFailed(
            f"{file} has {source.size_bytes} bytes, the upload is of {upload.size_bytes}",
            f"abort it with `imsctl upload abort {upload.id}` and import the file anew",
        )
    if upload.fingerprint and mark_of_file(upload) != source.mark:
        raise ClientError(
            "FAILED_PRECONDITION",
            f"{file} is not the file that upload {upload.id} was begun with, or was changed or moved since",
            f"give the file it was begun with, or abort it with `imsctl upload abort {upload.id}`",
        )


def _nothing_to_send(upload: upload_pb2.Upload) -> str:
    done = f"upload {upload.id} is complete, nothing was sent"
    if not upload.fingerprint:
        return f"{done}: an image is made of it by the call CreateImage"
    return f"{done}: `imsctl image import FILE --name NAME`, with the file it is of, makes an image of it"


def _print_upload(upload: upload_pb2.Upload) -> None:
    print_fields(
        {
            "id": upload.id,
            "state": enum_text(upload_pb2.UploadState, upload.state),
            "file": upload.file_name,
            "size": wording.size(upload.size_bytes),
            "arrived": wording.size(upload.committed_offset),
            "format": disk_format(upload.disk_format),
            "digest": upload.digest,
            "expires": wording.local_time(upload.expires_at),
        }
    )


def _print_table(uploads: Sequence[upload_pb2.Upload]) -> None:
    rows = [
        (
            upload.id,
            upload.file_name,
            enum_text(upload_pb2.UploadState, upload.state),
            disk_format(upload.disk_format),
            wording.size(upload.committed_offset),
            wording.size(upload.size_bytes) if upload.size_bytes else "unknown",
            wording.local_time(upload.expires_at),
        )
        for upload in uploads
    ]
    print_table(("ID", "FILE", "STATE", "FORMAT", "ARRIVED>", "SIZE>", "EXPIRES"), rows)
