"""`imsctl whoami`."""

from __future__ import annotations

import typer

from imsd.v1 import identity_pb2 as pb

from . import wording
from .command import command
from .identity_json import caller_fields
from .json_fields import enum_text
from .output import print_fields, print_json
from .session import Session

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@command(app, "whoami", example="imsctl whoami -o json")
async def whoami(session: Session) -> None:
    """Show who you are for the daemon, and which roles you have."""
    async with session.connect() as client:
        caller = await client.identity.caller()
    if session.is_json:
        print_json(caller_fields(caller))
        return
    fields = {
        "you are": "administrator of this machine" if caller.is_administrator else caller.id,
        "known by": enum_text(pb.CallerKind, caller.kind).replace("_", " "),
        "token": caller.token_id,
        "groups": ", ".join(caller.groups),
        "from": wording.peer(caller.peer),
        "roles": "; ".join(map(_role, caller.roles)),
    }
    print_fields(fields)


def _role(grant: pb.RoleGrant) -> str:
    place = "every project" if grant.project_id == "*" else grant.project_id
    by = f", by group {grant.principal_id}" if grant.principal_kind == pb.PRINCIPAL_KIND_GROUP else ""
    lacks = f" (does not count without {' and '.join(grant.missing_roles)})" if grant.missing_roles else ""
    return f"{grant.role} in {place}{by}{lacks}"
