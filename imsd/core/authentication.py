"""Who makes a call: what it brings along, in, a `Caller`, out.

A bearer token always decides: one that is no good is refused, also where the caller would be let in without
it, so that nobody does as administrator what he means to do as somebody else. Else the unix socket stands
for the local administrator, else a verified TLS certificate says who calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from imsd.contract import Unauthenticated

from .caller import Caller, CallerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a call says of who makes it.

    ``peer``: from where it came, as gRPC tells it; ``is_local``: over the unix socket. ``bearer``: its token,
    None when it brings none. ``certificate_id``: what its verified TLS certificate says, else empty.
    """

    peer: str
    is_local: bool = False
    bearer: str | None = None
    certificate_id: str = ""


class Authentication:
    async def caller(self, given: Credentials) -> Caller:
        """Raises Unauthenticated."""
        if given.bearer is not None:
            raise Unauthenticated("the token is not known", hint="ask for another token")
        if given.is_local:
            return Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local", peer=given.peer)
        raise Unauthenticated(
            "the call does not say who makes it",
            hint="send a token, or use the unix socket on the machine of the daemon",
        )
