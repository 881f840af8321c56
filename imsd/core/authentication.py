"""Who makes a call: what it brings along, in, a `Caller`, out.

A bearer token always decides: one that is no good is refused, also where the caller would be let in without
it, so that nobody does as administrator what he means to do as somebody else. Else the unix socket stands
for the local administrator, else a verified TLS certificate says who calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from imsd.contract import Unauthenticated

from .api_tokens import ApiTokens
from .caller import Caller, CallerKind
from .principals import Principals
from .running_calls import RunningCall

if TYPE_CHECKING:  # its libraries are loaded only where there is a provider
    from .oidc import OidcTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a call says of who makes it.

    ``peer``: from where it came, as gRPC tells it; ``is_local``: over the unix socket. ``bearer``: its token,
    None when it brings none. ``certificate_id``: what its verified TLS certificate says, else empty.
    """

    peer: str
    is_local: bool = False
    bearer: str | None = field(default=None, repr=False)
    certificate_id: str = ""


class Authentication:
    def __init__(self, principals: Principals, tokens: ApiTokens, oidc: OidcTokens | None = None) -> None:
        """``oidc``: None where no provider is configured."""
        self._principals = principals
        self._tokens = tokens
        self._oidc = oidc

    @asynccontextmanager
    async def calling(self, given: Credentials) -> AsyncIterator[RunningCall]:
        """The call that runs in the block; a token that is good no more ends it.

        Raises Unauthenticated, also out of the block, and there what the call's `may_go_on` raises;
        Unavailable while a provider's keys cannot be had.
        """
        seen = self._principals.changes.count
        caller = await self.caller(given)
        who = partial(self.caller, given, is_running=True)
        async with self._tokens.calls.running(caller, who) as call:
            if seen != self._principals.changes.count:
                # The token may have been revoked before it was known that this call runs.
                call.caller = await self.caller(given)
            yield call

    async def caller(self, given: Credentials, *, is_running: bool = False) -> Caller:
        """``is_running``: its call was let in before, and is asked about again.

        Raises Unauthenticated; Unavailable while a provider's keys cannot be had.
        """
        if given.bearer is not None:
            return await self._bearer_of(given.bearer, given.peer, is_running)
        if given.is_local:
            return Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local", peer=given.peer)
        if given.certificate_id:
            return await self._holder_of(given.certificate_id, given.peer)
        raise Unauthenticated(
            "the call does not say who makes it",
            hint="send a token (--token-file or IMSD_TOKEN of imsctl), or use the daemon's unix socket",
        )

    async def _bearer_of(self, bearer: str, peer: str, is_running: bool) -> Caller:
        if not self._tokens.is_secret(bearer):
            return await self._member_of(bearer, peer, is_running)
        token = await self._tokens.verify(bearer)
        standing = await self._principals.of_user(token.user_id)
        return Caller(
            kind=CallerKind.API_TOKEN,
            id=token.user_id,
            groups=standing.groups,
            roles=standing.roles,
            token_id=token.id,
            peer=peer,
        )

    async def _member_of(self, bearer: str, peer: str, is_running: bool) -> Caller:
        """Who came by the company's provider."""
        if self._oidc is None:
            raise Unauthenticated("the token is not known", hint="make one with `imsctl token create`")
        user = await self._oidc.verify(bearer, is_running=is_running)
        standing = await self._principals.of_user(user.id, user.groups)
        return Caller(
            kind=CallerKind.OIDC, id=user.id, groups=standing.groups, roles=standing.roles, peer=peer
        )

    async def _holder_of(self, certificate_id: str, peer: str) -> Caller:
        standing = await self._principals.of_certificate(certificate_id)
        return Caller(kind=CallerKind.CERTIFICATE, id=certificate_id, roles=standing.roles, peer=peer)
