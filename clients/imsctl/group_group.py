"""`imsctl group`."""

from __future__ import annotations

from typing import Annotated

import typer

from imsd.v1 import identity_pb2

from . import wording
from .command import command, group
from .identity_json import group_fields
from .output import print_json, print_table, printable
from .project_group import DescriptionOption
from .session import Session
from .several import each_of

app = group("Groups of users.", "imsctl group add imaging ann bob")

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The name of a group.")]
UsersArgument = Annotated[list[str], typer.Argument(metavar="USER...", help="Users.")]


@command(app, "create", example="imsctl group create imaging")
async def create(session: Session, name: GroupArgument, description: DescriptionOption = "") -> None:
    """Make a group. The groups of OpenID Connect tokens are matched by name."""
    async with session.connect() as client:
        made = await client.identity.create_group(name, description)
    if session.is_json:
        print_json(group_fields(made))
    else:
        print(f"created group {printable(made.id)}")


@command(app, "list", example="imsctl group list -o json")
async def list_(session: Session) -> None:
    """Show all groups with their users."""
    async with session.connect() as client:
        found = [each async for each in client.identity.groups()]
    if session.is_json:
        print_json([group_fields(each) for each in found])
        return
    rows = [
        (each.id, ", ".join(each.user_ids), wording.local_time(each.created_at), each.description)
        for each in found
    ]
    print_table(("GROUP", "USERS", "CREATED", "DESCRIPTION"), rows)


@command(app, "delete", example="imsctl group delete imaging")
async def delete(
    session: Session,
    groups: Annotated[list[str], typer.Argument(metavar="GROUP...", help="Groups.")],
) -> int:
    """Forget groups and their roles; goes on after a failure, and exits 1 then."""
    async with session.connect() as client:
        return await each_of(session, groups, "deleted group", client.identity.delete_group)


@command(app, "add", example="imsctl group add imaging ann bob")
async def add(session: Session, name: GroupArgument, users: UsersArgument) -> None:
    """Add users to a group: all of them or, if one is not known, none."""
    async with session.connect() as client:
        changed = await client.identity.set_group_members(name, add=users)
    _print_group(session, changed)


@command(app, "remove", example="imsctl group remove imaging bob")
async def remove(session: Session, name: GroupArgument, users: UsersArgument) -> None:
    """Take users out of a group."""
    async with session.connect() as client:
        changed = await client.identity.set_group_members(name, remove=users)
    _print_group(session, changed)


def _print_group(session: Session, changed: identity_pb2.Group) -> None:
    if session.is_json:
        print_json(group_fields(changed))
    else:
        print(f"group {printable(changed.id)}: {printable(', '.join(changed.user_ids)) or 'nobody'}")
