"""`imsctl role`: who has which role where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from imsd.v1 import identity_pb2 as pb

from . import wording
from .command import command, group
from .identity_json import grant_fields
from .json_fields import enum_text
from .output import print_json, print_table, printable
from .session import Session

app = group(
    "Roles of users, groups and certificates. `imsctl policy roles` says what each allows.",
    'imsctl role grant "IMS FullAccess" --user ann --in lab',
)

EVERY_PROJECT = "*"

RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help="The name of a role.")]


@dataclass(frozen=True, kw_only=True)
class PrincipalOptions:
    user: Annotated[str, typer.Option(metavar="USER", help="A user.")] = ""
    group: Annotated[str, typer.Option(metavar="GROUP", help="A group.")] = ""
    certificate: Annotated[
        str,
        typer.Option(metavar="ID", help="What a client certificate says: spiffe://… or its common name."),
    ] = ""
    in_: Annotated[
        str, typer.Option("--in", metavar="PROJECT", help='The project; "*" for every project.')
    ] = ""

    def principal(self, *, is_needed: bool) -> tuple[pb.PrincipalKind.ValueType, str]:
        given = [
            (pb.PRINCIPAL_KIND_USER, self.user),
            (pb.PRINCIPAL_KIND_GROUP, self.group),
            (pb.PRINCIPAL_KIND_CERTIFICATE, self.certificate),
        ]
        named = [(kind, name) for kind, name in given if name]
        if len(named) > 1 or (is_needed and not named):
            raise typer.BadParameter("name one: --user, --group or --certificate")
        return named[0] if named else (pb.PRINCIPAL_KIND_UNSPECIFIED, "")

    def project(self, session: Session) -> str:
        place = self.in_ or session.settings.project
        if not place:
            raise typer.BadParameter('say in which project: --in PROJECT, or --in "*" for every project')
        if self.in_:
            session.is_set_by("--in", "project_id")
        return place


@command(
    app,
    "grant",
    example=[
        'imsctl role grant "IMS FullAccess" --user ann --in lab',
        'imsctl role grant "IMS ReadOnlyAccess" --group auditors --in "*"',
        'imsctl role grant "IMS FullAccess" --certificate spiffe://example.org/builder --in lab',
    ],
)
async def grant(session: Session, role: RoleArgument, options: PrincipalOptions) -> None:
    """Give a user, a group or a certificate a role in a project."""
    kind, principal = options.principal(is_needed=True)
    project = options.project(session)
    async with session.connect() as client:
        made = await client.identity.grant_role(kind, principal, project, role)
    if made.missing_roles:
        missing = " and ".join(made.missing_roles)
        session.note(f"the role counts only together with {missing} in the same project")
    if session.is_json:
        print_json(grant_fields(made))
    else:
        print(f"granted: {_sentence(made)}")


@command(app, "revoke", example='imsctl role revoke "IMS FullAccess" --user ann --in lab')
async def revoke(session: Session, role: RoleArgument, options: PrincipalOptions) -> None:
    """Take a granted role away."""
    kind, principal = options.principal(is_needed=True)
    project = options.project(session)
    async with session.connect() as client:
        await client.identity.revoke_role(kind, principal, project, role)
    gone = pb.RoleGrant(principal_kind=kind, principal_id=principal, project_id=project, role=role)
    if session.is_json:
        print_json(grant_fields(gone))
    else:
        print(f"revoked: {_sentence(gone)}")


@command(app, "list", example="imsctl role list --in lab")
async def list_(session: Session, options: PrincipalOptions) -> None:
    """Show who has which role where."""
    kind, principal = options.principal(is_needed=False)
    session.is_set_by("--in", "project_id")
    async with session.connect() as client:
        found = [each async for each in client.identity.role_grants(kind, principal, options.in_)]
    if session.is_json:
        print_json([grant_fields(each) for each in found])
        return
    rows = [
        (
            enum_text(pb.PrincipalKind, each.principal_kind),
            each.principal_id,
            each.project_id,
            each.role,
            f"no: needs {', '.join(each.missing_roles)}" if each.missing_roles else "yes",
            wording.local_time(each.created_at),
        )
        for each in found
    ]
    print_table(("KIND", "WHO", "PROJECT", "ROLE", "COUNTS", "GRANTED"), rows)


def _sentence(grant: pb.RoleGrant) -> str:
    place = "every project" if grant.project_id == EVERY_PROJECT else f"project {printable(grant.project_id)}"
    kind = enum_text(pb.PrincipalKind, grant.principal_kind)
    return f"{printable(grant.role)} to {kind} {printable(grant.principal_id)} in {place}"
