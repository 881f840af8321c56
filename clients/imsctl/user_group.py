"""`imsctl user`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import wording
from .command import command, group
from .identity_json import user_fields
from .output import print_json, print_table, printable
from .project_group import DescriptionOption
from .session import Session
from .several import each_of

app = group("Users: who has roles and tokens.", "imsctl user create ann")


@command(app, "create", example="imsctl user create ann")
async def create(
    session: Session,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="A name, or the subject of OpenID Connect tokens.")
    ],
    description: DescriptionOption = "",
) -> None:
    """Make a user known, so that it can have roles and tokens."""
    async with session.connect() as client:
        made = await client.identity.create_user(user, description)
    if session.is_json:
        print_json(user_fields(made))
    else:
        print(f"created user {printable(made.id)}")


@command(app, "list", example="imsctl user list")
async def list_(session: Session) -> None:
    """Show all users with their groups."""
    async with session.connect() as client:
        found = [user async for user in client.identity.users()]
    if session.is_json:
        print_json([user_fields(user) for user in found])
        return
    rows = [
        (each.id, ", ".join(each.groups), wording.local_time(each.created_at), each.description)
        for each in found
    ]
    print_table(("USER", "GROUPS", "CREATED", "DESCRIPTION"), rows)


@command(app, "delete", example="imsctl user delete ann")
async def delete(
    session: Session,
    users: Annotated[list[str], typer.Argument(metavar="USER...", help="Users.")],
) -> int:
    """Forget users, their roles and their tokens; goes on after a failure, and exits 1 then."""
    async with session.connect() as client:
        return await each_of(session, users, "deleted user", client.identity.delete_user)
