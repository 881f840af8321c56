"""Who we are: a token that is kept alive, from a file or by an AppRole.

A token is renewed when two thirds of its time are over and something is asked; the deletions of keys are
looked at every minute, so something always is. When that fails, or the server refuses the token, the file is
read again or the role logs in again.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from imsd.contract import ImsError, InvalidRequest, PermissionDenied, read_secret, run_blocking

from .answers import Answer
from .options import TransitOptions
from .server import Server

# Of the time of a token, after which it is renewed.
RENEWED_AFTER = 2 / 3

# After a renewal in vain it is not tried again for so long.
PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A token; times are of the monotonic clock, in seconds. ``expires_at``: infinity if it never does."""

    token: str = field(repr=False)
    renew_at: float
    expires_at: float


class Login(ABC):
    """Gives the token that is good now."""

    def __init__(
        self,
        server: Server,
        options: TransitOptions,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._options = options
        self._monotonic = monotonic
        self._lease: Lease | None = None
        self._entering = asyncio.Lock()

    async def token(self) -> str:
        """Raises PermissionDenied (KEY_SERVICE_DENIED), Unavailable (KEY_SERVICE_UNAVAILABLE)."""
        lease = self._lease
        if lease is None or self._monotonic() >= lease.renew_at:
            async with self._entering:
                lease = self._lease  # another task may have been first
                if lease is None or self._monotonic() >= lease.expires_at:
                    lease = await self._enter()
                elif self._monotonic() >= lease.renew_at:
                    lease = await self._renew(lease)
                self._lease = lease
        return lease.token

    async def another(self, refused: str) -> str | None:
        """A token instead of one that the server refused; None if there is no other, or it is good.

        One that is good is refused for its policy: another one would have the same.
        """
        async with self._entering:
            if self._lease is None or self._lease.token == refused:
                if await self._is_known(refused):
                    return None
                self._lease = await self._enter()
            return None if self._lease.token == refused else self._lease.token

    async def _is_known(self, token: str) -> bool:
        """Whether the server has the token, as far as its policy lets it say so."""
        try:
            return (await self._server.ask("GET", "auth/token/lookup-self", token=token)).is_yes
        except PermissionDenied:
            return False

    @abstractmethod
    async def _enter(self) -> Lease:
        """A token to begin with. Raises what `token` raises."""

    async def _renew(self, lease: Lease) -> Lease:
        """The same token for longer; another one if that is in vain."""
        try:
            answer = await self._server.ask("POST", "auth/token/renew-self", token=lease.token)
            if answer.is_yes:
                renewed = self._lease_of(lease.token, answer.auth)
                if renewed.expires_at > lease.expires_at:
                    return renewed
        except PermissionDenied:
            pass
        except ImsError:
            return self._later(lease)
        try:
            return await self._enter()
        except ImsError:
            return self._later(lease)

    def _later(self, lease: Lease) -> Lease:
        """As long as it lasts, the token that there is will do."""
        now = self._monotonic()
        return Lease(lease.token, min(now + PAUSE_SECONDS, lease.expires_at), lease.expires_at)

    def _lease_of(self, token: str, told: object) -> Lease:
        """``told``: what the server says of the token, with the seconds that are left."""
        seconds = renewable = None
        if isinstance(told, dict):
            seconds, renewable = told.get("lease_duration", told.get("ttl")), told.get("renewable")
        now, never = self._monotonic(), float("inf")
        if not isinstance(seconds, int) or seconds <= 0:
            return Lease(token, never, never)
        expires_at = now + seconds
        return Lease(token, now + seconds * RENEWED_AFTER if renewable else expires_at, expires_at)


class TokenLogin(Login):
    """A token that somebody else made, and may replace in its file at any time, such as an agent."""

    async def _enter(self) -> Lease:
        token = await secret("token", self._options)
        try:
            answer = await self._server.ask("GET", "auth/token/lookup-self", token=token)
        except PermissionDenied:
            answer = Answer(403)  # it may be good all the same, if its policy does not let it look at itself
        return self._lease_of(token, dict(answer.data))


class AppRoleLogin(Login):
    """A token of our own, by the id of a role and a secret id."""

    async def _enter(self) -> Lease:
        options = self._options
        secret_id = await secret("secret_id", options)
        answer = await self._server.ask(
            "POST",
            f"auth/{options.approle_mount}/login",
            {"role_id": options.role_id, "secret_id": secret_id},
        )
        token = answer.auth.get("client_token")
        if not answer.is_yes or not isinstance(token, str):
            raise _denied(
                "the key service does not let the AppRole in",
                "check role_id, the secret id (it may be used up or expired) and approle_mount",
            )
        return self._lease_of(token, dict(answer.auth))


def new_login(
    server: Server, options: TransitOptions, monotonic: Callable[[], float] = time.monotonic
) -> Login:
    kind = AppRoleLogin if options.role_id else TokenLogin
    return kind(server, options, monotonic)


async def secret(name: str, options: TransitOptions) -> str:
    """Raises PermissionDenied (KEY_SERVICE_DENIED) if its file, which was good once, is not any more."""
    file, credential = getattr(options, f"{name}_file"), getattr(options, f"{name}_credential")
    try:
        content = await run_blocking(read_secret, name, file, credential)
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise _denied(f"the file of the {name} has other characters than ASCII") from None
    except InvalidRequest as error:
        raise _denied(error.message, error.hint) from error
    if not text.isprintable() or " " in text:
        raise _denied(f"the file of the {name} has more than one line or word")
    return text


def _denied(message: str, hint: str = "") -> PermissionDenied:
    return PermissionDenied(message, reason="KEY_SERVICE_DENIED", hint=hint)
