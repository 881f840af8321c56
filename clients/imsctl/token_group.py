"""`imsctl token`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from imsd.v1 import identity_pb2 as pb

from . import wording
from .command import command, group
from .identity_json import token_fields
from .output import print_json, print_table
from .session import Session
from .several import each_of

app = group("API tokens: what says who you are, to programs.", "imsctl token create --name ci --expires 90d")

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]{1,8})([mhdw])\Z")


@dataclass(frozen=True, kw_only=True)
class CreateOptions:
    name: Annotated[str, typer.Option(metavar="NAME", help="What the token is for.")]
    user: Annotated[str, typer.Option(metavar="USER", help="Whose it is; else yours.")] = ""
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is good: 30m, 12h, 90d or 8w; at most 366d.")
    ] = "30d"


@command(
    app,
    "create",
    example=[
        "imsctl token create --name ci --expires 90d > ~/.imsd-token",
        "imsctl token create --name ci --user builder",
    ],
)
async def create(session: Session, options: CreateOptions) -> None:
    """Make a token and print its secret, which is never shown again."""
    seconds = _seconds(options.expires)
    async with session.connect() as client:
        made = await client.identity.create_token(options.name, options.user, seconds)
    if session.is_json:
        print_json(token_fields(made.token) | {"secret": made.secret})
        return
    print(made.secret)
    session.note(
        f"token {made.token.id} of user {made.token.user_id}, good until "
        f"{wording.local_time(made.token.expires_at)}; keep it: it is not shown again"
    )


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    user: Annotated[
        str, typer.Option(metavar="USER", help='Whose; "*" for everybody\'s (operators only); else yours.')
    ] = ""
    all: Annotated[bool, typer.Option("--all", help="Those that expired or were revoked, too.")] = False


@command(app, "list", example="imsctl token list --all")
async def list_(session: Session, options: ListOptions) -> None:
    """Show tokens, newest first, without their secrets."""
    async with session.connect() as client:
        found = [each async for each in client.identity.tokens(options.user, has_all=options.all)]
    if session.is_json:
        print_json([token_fields(each) for each in found])
        return
    rows = [
        (
            each.id,
            each.user_id,
            each.name,
            wording.local_time(each.created_at),
            _end(each),
            wording.local_time(each.last_used_at)[:-3],  # known to the minute
        )
        for each in found
    ]
    print_table(("ID", "USER", "NAME", "CREATED", "GOOD UNTIL", "LAST USED"), rows)


@command(app, "revoke", example="imsctl token revoke 8d7f6a34-9a53-4d3c-8a4b-5c0c3a2f7b10")
async def revoke(
    session: Session,
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN...", help="Ids of tokens.")],
) -> int:
    """Make tokens useless, at once, and end the calls that run with them."""
    async with session.connect() as client:
        return await each_of(session, tokens, "revoked token", client.identity.revoke_token)


def _end(token: pb.Token) -> str:
    if token.HasField("revoked_at"):
        return f"revoked {wording.local_time(token.revoked_at)}"
    return wording.local_time(token.expires_at)


def _seconds(text: str) -> int:
    """A lifetime as users write it."""
    found = _DURATION.match(text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no time: write 30m, 12h, 90d or 8w", param_hint="--expires")
    return int(found[1]) * _SECONDS[found[2]]
