"""`imsctl policy`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from imsd.v1 import policy_pb2

from . import wording
from .command import command, group
from .output import print_fields, print_json, print_table
from .session import FAILED, Session

app = group(
    "Who may do what, and why.",
    "imsctl policy check alice ims:images:delete debian-12",
)

# For oneself.
ME = "me"

IMAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@command(
    app,
    "check",
    example=[
        "imsctl policy check alice ims:images:delete debian-12",
        "imsctl policy check me ims:images:list --project blue",
    ],
)
async def check(
    session: Session,
    user: Annotated[str, typer.Argument(metavar="USER", help='A user; "me" for yourself.')],
    action: Annotated[
        str,
        typer.Argument(metavar="ACTION", help="As `imsctl policy actions` shows them."),
    ],
    image: Annotated[str, typer.Argument(metavar="[IMAGE]", help="Name or id of an image.")] = "",
) -> int | None:
    """Say whether a user may do something, which policies and roles decide it, and what else would refuse it.

    Ends with 0 when the policies allow it and with 1 when they do not.
    """
    async with session.connect() as client:
        if image and not IMAGE_ID.fullmatch(image):
            image = (await client.images.resolve(image)).id
        said = await client.policies.check(action, "" if user == ME else user, image)
    if session.is_json:
        print_json(_fields(said))
    else:
        print_fields(_lines(said))
    return None if said.is_allowed else FAILED


@command(app, "roles", example="imsctl policy roles -o json")
async def roles(session: Session) -> None:
    """Show the roles that can be granted, on what they depend, and what they allow."""
    async with session.connect() as client:
        found = await client.policies.roles()
    if session.is_json:
        print_json([_role(each) for each in found])
        return
    print_table(
        ("ROLE", "DEPENDS ON", "FROM", "WHAT IT ALLOWS"),
        [(each.name, ", ".join(each.depends_on), each.source or "imsd", each.summary) for each in found],
    )


@command(app, "actions", example="imsctl policy actions")
async def actions(session: Session) -> None:
    """Show the actions that policies speak of, and the calls that need them."""
    async with session.connect() as client:
        found = await client.policies.actions()
    if session.is_json:
        print_json([_action(each) for each in found])
        return
    print_table(
        ("ACTION", "CHANGES", "CALLS"),
        [
            (
                each.name,
                wording.yes_no(each.is_mutation),
                " ".join(method.rpartition("/")[2] for method in each.methods),
            )
            for each in found
        ],
    )


def _lines(said: policy_pb2.CheckPolicyResponse) -> dict[str, str]:
    return {
        "allowed": wording.yes_no(said.is_allowed),
        "project": said.project_id,
        "policies": ", ".join(said.policies),
        "roles": ", ".join(said.roles),
        "ignored roles": ", ".join(said.ignored_roles),
        "because": said.explanation,
        "rules against it": "; ".join(said.rules),
    }


def _fields(said: policy_pb2.CheckPolicyResponse) -> dict[str, Any]:
    return {
        "allowed": said.is_allowed,
        "project_id": said.project_id,
        "policies": list(said.policies),
        "roles": list(said.roles),
        "ignored_roles": list(said.ignored_roles),
        "explanation": said.explanation,
        "rules": list(said.rules),
    }


def _role(role: policy_pb2.Role) -> dict[str, Any]:
    return {
        "name": role.name,
        "summary": role.summary,
        "depends_on": list(role.depends_on),
        "actions": list(role.actions),
        "source": role.source,
    }


def _action(action: policy_pb2.Action) -> dict[str, Any]:
    return {"name": action.name, "methods": list(action.methods), "mutation": action.is_mutation}
