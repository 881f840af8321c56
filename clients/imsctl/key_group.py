"""`imsctl key`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Annotated

import typer

from imsd.v1 import key_pb2

from . import choice, wording
from .command import command, group
from .job_output import print_job
from .job_watch import watch_job
from .json_fields import enum_text, enum_texts, key_fields
from .output import print_fields, print_json, print_table
from .session import Session

app = group("Keys: under which images are encrypted.", "imsctl key create payroll")

STATES = enum_texts(key_pb2.KeyState)

# As the hosted service's console suggests it.
PENDING_DAYS = 7

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Id or name of a key.")]
RequestIdOption = Annotated[
    str, typer.Option("--request-id", metavar="ID", help="Do it once, however often this is repeated.")
]


@dataclass(frozen=True, kw_only=True)
class CreateOptions:
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = ""
    key_service: Annotated[
        str, typer.Option(metavar="NAME", help="Which key service keeps it; else the default one.")
    ] = ""
    request_id: RequestIdOption = ""


@command(app, "create", example='imsctl key create payroll --description "disks of the payroll servers"')
async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits and : / _ -")],
    options: CreateOptions,
) -> None:
    """Make a key, enabled."""
    request_id = options.request_id or f"imsctl-{uuid.uuid4()}"
    async with session.connect() as client:
        made = await client.keys.create(name, options.description, options.key_service, request_id)
    _print_key(session, made)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    state: Annotated[
        list[str], typer.Option(metavar="STATE", help=f"Only these, of {', '.join(STATES)}; may be repeated.")
    ] = field(default_factory=list)


@command(app, "list", example="imsctl key list --state disabled")
async def list_(session: Session, options: ListOptions) -> None:
    """Show keys, newest first, in the states that were last known; `imsctl key show` asks."""
    states = [
        key_pb2.KeyState.ValueType(choice.choose(key_pb2.KeyState, text, "--state")) for text in options.state
    ]
    async with session.connect() as client:
        found = [key async for key in client.keys.list(states)]
    if session.is_json:
        print_json([key_fields(key) for key in found])
        return
    header = ("ID", "NAME", "STATE", "VERSION>", "IMAGES>", "KEY SERVICE", "CREATED")
    print_table(header, [_row(key) for key in found])


@command(app, "show", example="imsctl key show payroll")
async def show(session: Session, named: KeyArgument) -> None:
    """Show a key, and how many images there are under it."""
    async with session.connect() as client:
        found = await client.keys.get(named)
    _print_key(session, found)


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")] = None


@command(app, "set", example="imsctl key set payroll --name payroll-2026")
async def set_(session: Session, named: KeyArgument, options: SetOptions) -> None:
    """Change the name or the description of a key."""
    if options.name is None and options.description is None:
        raise typer.BadParameter("nothing is to be changed: give --name or --description")
    async with session.connect() as client:
        changed = await client.keys.update(named, options.name, options.description)
    _print_key(session, changed)


@command(app, "enable", example="imsctl key enable payroll")
async def enable(session: Session, named: KeyArgument) -> None:
    """Make a key usable again."""
    async with session.connect() as client:
        changed = await client.keys.enable(named)
    _print_key(session, changed)


@command(app, "disable", example="imsctl key disable payroll")
async def disable(session: Session, named: KeyArgument) -> None:
    """Make a key unusable until it is enabled: images under it cannot be read meanwhile."""
    async with session.connect() as client:
        changed = await client.keys.disable(named)
    _print_key(session, changed)
    if changed.image_count:
        session.note(f"{_images(changed)} cannot be read until `imsctl key enable {changed.name}`")


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    detach: Annotated[bool, typer.Option("--detach", help="Return when the job is started; print it.")] = (
        False
    )
    request_id: RequestIdOption = ""


@command(app, "rotate", example="imsctl key rotate payroll")
async def rotate(session: Session, named: KeyArgument, options: RotateOptions) -> None:
    """Give a key a new version, and wrap what is under it anew; no byte of an image is touched."""
    request_id = options.request_id or f"imsctl-{uuid.uuid4()}"
    async with session.connect() as client:
        job = await client.keys.rotate(named, request_id)
        if options.detach:
            print_job(session, job)
            return
        with session.progress() as view:
            job = await watch_job(client, job.id, view.row())
        _print_key(session, await client.keys.get(job.rotation_report.key_id))


@command(app, "delete", example="imsctl key delete payroll --days 30")
async def delete(
    session: Session,
    named: KeyArgument,
    days: Annotated[
        int, typer.Option("--days", metavar="DAYS", help="Days until it is destroyed, 7 to 1096.")
    ] = PENDING_DAYS,
) -> None:
    """Have a key destroyed some days from now; images that are still under it then are lost."""
    async with session.connect() as client:
        changed = await client.keys.schedule_deletion(named, days)
    _print_key(session, changed)
    if changed.image_count:
        session.note(
            f"{_images(changed)} under the key cannot be read from now on, and will be LOST at "
            f"{wording.local_time(changed.delete_at)}; `imsctl key undelete {changed.name}` keeps it"
        )


@command(app, "undelete", example="imsctl key undelete payroll")
async def undelete(session: Session, named: KeyArgument) -> None:
    """Keep a key that was to be destroyed; it is disabled until it is enabled."""
    async with session.connect() as client:
        changed = await client.keys.cancel_deletion(named)
    _print_key(session, changed)
    session.note(f"the key is disabled: make it usable with `imsctl key enable {changed.name}`")


def _print_key(session: Session, key: key_pb2.Key) -> None:
    if session.is_json:
        print_json(key_fields(key))
        return
    print_fields(
        {
            "id": key.id,
            "name": key.name,
            "description": key.description,
            "state": _state(key),
            "problem": key.problem,
            "version": str(key.version),
            "images": str(key.image_count),
            "key service": key.key_service,
            "created": wording.local_time(key.created_at),
            "changed": wording.local_time(key.updated_at),
            "deleted at": wording.local_time(key.delete_at),
        }
    )


def _row(key: key_pb2.Key) -> tuple[str, ...]:
    created = wording.local_time(key.created_at)
    return key.id, key.name, _state(key), str(key.version), str(key.image_count), key.key_service, created


def _state(key: key_pb2.Key) -> str:
    return enum_text(key_pb2.KeyState, key.state).replace("_", " ")


def _images(key: key_pb2.Key) -> str:
    return "1 image" if key.image_count == 1 else f"{key.image_count} images"
