"""`imsctl attachment`, and `imsctl image attach` and `detach`: images as disks on the daemon's machine."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated

import typer
from ims_client import CallFailed, ClientError, ImsClient

from imsd.v1 import attachment_pb2

from . import wording
from .attached_use import uses
from .attachment_json import attachment_fields, uri_of
from .command import command, group
from .json_fields import enum_text
from .output import print_fields, print_json, print_table, printable
from .session import FAILED, Session, print_failure

AttachmentArgument = Annotated[
    str,
    typer.Argument(
        metavar="ATTACHMENT", help="Its id or the first characters of it, or the image's id or name."
    ),
]
LEAST_PREFIX = 4

app = group("Images that are attached: disks to be read while they are fetched.", "imsctl attachment list")


@command(app, "list", example="imsctl attachment list")
async def list_(session: Session) -> None:
    """Show the attachments of the project, the newest first."""
    async with session.connect() as client:
        found = [attachment async for attachment in client.attachments.list()]
    if session.is_json:
        print_json([attachment_fields(each) for each in found])
        return
    rows = [
        (
            each.id,
            each.image_name,
            _state(each),
            str(each.clients),
            wording.size(each.fetched_bytes),
            each.socket or each.host,
        )
        for each in found
    ]
    print_table(("ID", "IMAGE", "STATE", "CLIENTS>", "FETCHED>", "SOCKET"), rows)


@command(app, "show", example="imsctl attachment show debian-12")
async def show(session: Session, attachment: AttachmentArgument) -> None:
    """Show an attachment: who is connected, what was read and what of that had to be fetched."""
    async with session.connect() as client:
        found = await client.attachments.get((await _found(client, attachment)).id)
    if session.is_json:
        print_json(attachment_fields(found))
    else:
        _print(found)


async def attach(session: Session, name_or_id: str) -> None:
    """Attach an image and say how to use it."""
    request_id = f"imsctl-{uuid.uuid4()}"
    async with session.connect() as client:
        image = await client.images.resolve(name_or_id)
        made = await client.attachments.attach(image.id, request_id)
    if session.is_json:
        print_json(attachment_fields(made))
        return
    commands = uses(image, uri_of(made)) | {"end": f"imsctl image detach {made.id}"}
    print_fields(
        {
            "image": f"{made.image_name} {made.image_id}",
            "id": made.id,
            "state": _state(made),
            "detail": made.detail,
            "socket": made.socket,
            **commands,
        },
        whole=commands,
    )


async def detach(session: Session, texts: Sequence[str], *, force: bool) -> int:
    """End attachments; returns the exit code. Goes on after a failure."""
    ended, failures = [], 0
    async with session.connect() as client:
        for text in texts:
            try:
                found = await _found(client, text)
                is_detached = await client.attachments.detach(found.id, force=force)
            except ClientError as error:
                if isinstance(error, CallFailed) and error.reason == "DAEMON_UNREACHABLE":
                    raise
                failures += 1
                print_failure(error.message, error.hint, error.reason)
                continue
            ended.append({"id": found.id, "image_id": found.image_id, "detached": is_detached})
            if not session.is_json:
                when = "" if is_detached else ", as soon as the block server answers"
                print(printable(f"detached {found.id} ({found.image_name}){when}"))
    if session.is_json:
        print_json(ended)
    return FAILED if failures else 0


async def _found(client: ImsClient, text: str) -> attachment_pb2.Attachment:
    """The one attachment that ``text`` stands for. Raises ClientError (NOT_FOUND, AMBIGUOUS_NAME)."""
    every = [attachment async for attachment in client.attachments.list()]
    if exact := [each for each in every if each.id == text]:
        return exact[0]
    fitting = [each for each in every if text in (each.image_id, each.image_name) or _begins(each, text)]
    if not fitting:
        raise ClientError(
            "NOT_FOUND", f"nothing that {text!r} stands for is attached", "`imsctl attachment list` shows all"
        )
    if len(fitting) > 1:
        some = ", ".join(each.id[:8] for each in fitting[:5])
        raise ClientError(
            "AMBIGUOUS_NAME", f"{text!r} fits several attachments: {some}", "use the id of one of them"
        )
    return fitting[0]


def _begins(attachment: attachment_pb2.Attachment, text: str) -> bool:
    return len(text) >= LEAST_PREFIX and attachment.id.startswith(text)


def _state(attachment: attachment_pb2.Attachment) -> str:
    return enum_text(attachment_pb2.AttachmentState, attachment.state)


def _print(found: attachment_pb2.Attachment) -> None:
    print_fields(
        {
            "id": found.id,
            "image": f"{found.image_name} {found.image_id}",
            "state": _state(found),
            "detail": found.detail,
            "host": found.host,
            "socket": found.socket,
            "uri": uri_of(found),
            "export": found.export_name,
            "disk": wording.size(found.size_bytes),
            "clients": str(found.clients),
            "requests": str(found.requests),
            "read": wording.size(found.read_bytes),
            "fetched": wording.size(found.fetched_bytes),
            "from cache": wording.size(found.cached_bytes),
            "in memory": f"{found.memory_hits} chunks, {found.memory_misses} not",
            "errors": str(found.errors or ""),
            "attached": wording.local_time(found.created_at),
        }
    )
