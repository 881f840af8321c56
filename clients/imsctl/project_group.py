"""`imsctl project`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import wording
from .command import command, group
from .identity_json import project_fields
from .output import print_json, print_table, printable
from .session import Session
from .several import each_of
from .space_output import print_project_space

app = group("Projects: whose images are whose.", "imsctl project create lab")

DescriptionOption = Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.")]


@command(app, "create", example='imsctl project create lab --description "Trials of the kernel team"')
async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="PROJECT", help="Letters, digits, - and _.")],
    description: DescriptionOption = "",
) -> None:
    """Make a project known: images can be shared with it, roles granted in it."""
    async with session.connect() as client:
        made = await client.identity.create_project(name, description)
    if session.is_json:
        print_json(project_fields(made))
    else:
        print(f"created project {printable(made.id)}")


@command(app, "list", example="imsctl project list -o json")
async def list_(session: Session) -> None:
    """Show the projects that you have a role in; to an operator, all of them."""
    async with session.connect() as client:
        found = [project async for project in client.identity.projects()]
    if session.is_json:
        print_json([project_fields(project) for project in found])
        return
    rows = [(each.id, wording.local_time(each.created_at), each.description) for each in found]
    print_table(("PROJECT", "CREATED", "DESCRIPTION"), rows)


@command(app, "space", example="imsctl project space --project web")
async def space(session: Session) -> None:
    """Show what the images of the project take in the stores."""
    async with session.connect() as client:
        print_project_space(session, await client.images.project_space())


@command(app, "delete", example="imsctl project delete lab")
async def delete(
    session: Session,
    names: Annotated[list[str], typer.Argument(metavar="PROJECT...", help="Projects.")],
) -> int:
    """Forget projects that have no image, upload or running job; goes on after a failure, exits 1 then."""
    async with session.connect() as client:
        return await each_of(session, names, "deleted project", client.identity.delete_project)
