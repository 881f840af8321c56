"""API tokens: made, listed, revoked, and recognised when a call brings one.

Who may do that with whose tokens is written in the policies. A secret is ``imsd_``, the token's id in 32 hex
digits, ``_``, and 256 random bits: programs that look for leaked secrets know it by that shape. It is shown
once; what is kept is its SHA-256, which needs neither salt nor a slow hash: nobody guesses 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from imsd.contract import LimitExceeded, NotFound, Unauthenticated
from imsd.metadata import api_tokens as token_rows
from imsd.metadata import identity as identity_rows
from imsd.metadata.identity_records import TokenRecord

from . import checks, identity_checks
from .caller import Caller, CallerKind
from .principals import MAX_REMEMBERED, REMEMBER_SECONDS, Principals
from .remembered import Remembered
from .running_calls import RunningCalls
from .runtime import Runtime
from .token_uses import TokenUses

PREFIX: Final = "imsd_"
_SECRET = re.compile(r"imsd_([0-9a-f]{32})_[A-Za-z0-9_-]{43}\Z")
_RANDOM_BYTES: Final = 32

# Tokens of a user that are good no more and are still listed.
KEPT_DEAD_TOKENS: Final = 400

ALL_USERS: Final = "*"

ANOTHER_TOKEN: Final = "make another one with `imsctl token create`, or ask an operator for one"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """``secret``: what is shown once and never again; it is in no `repr`."""

    record: TokenRecord
    secret: str = field(repr=False)


class ApiTokens:
    def __init__(
        self, runtime: Runtime, principals: Principals, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._runtime = runtime
        self._principals = principals
        self._verified: Remembered[bytes, TokenRecord] = Remembered(
            principals.changes, REMEMBER_SECONDS, MAX_REMEMBERED, monotonic
        )
        self.calls = RunningCalls(runtime.background)
        self.uses = TokenUses(runtime)

    async def create(self, caller: Caller, user_id: str, name: str, lifetime_seconds: int) -> NewToken:
        """Raises InvalidRequest, NotFound, LimitExceeded."""
        name = identity_checks.token_name(name)
        lifetime = identity_checks.lifetime(lifetime_seconds)
        user_id = _whose(caller, user_id)
        now = self._runtime.clock()
        token_id = self._runtime.new_id()
        secret = f"{PREFIX}{uuid.UUID(token_id).hex}_{secrets.token_urlsafe(_RANDOM_BYTES)}"
        record = TokenRecord(
            id=token_id,
            user_id=user_id,
            name=name,
            secret_hash=_hash(secret),
            created_at=now,
            expires_at=now + timedelta(seconds=lifetime),
        )
        async with self._runtime.database.transaction() as c:
            if not await identity_rows.known_user(c, user_id):
                raise NotFound(
                    f"there is no user {user_id!r}", hint="an operator makes it with `imsctl user create`"
                )
            if await token_rows.count_live_tokens(c, user_id, now) >= identity_checks.MAX_LIVE_TOKENS:
                raise LimitExceeded(
                    f"user {user_id!r} has {identity_checks.MAX_LIVE_TOKENS} tokens",
                    hint="revoke those that are not needed with `imsctl token revoke`",
                )
            await token_rows.forget_dead_tokens(c, user_id, now, KEPT_DEAD_TOKENS)
            await token_rows.insert_token(c, record)
        return NewToken(record=record, secret=secret)

    async def list(
        self, caller: Caller, user_id: str, has_all: bool, page_size: int, page_token: str
    ) -> tuple[Sequence[TokenRecord], str]:
        """A page, newest first, and the token of the next one; ``user_id`` `ALL_USERS`: of everybody.

        Raises InvalidRequest.
        """
        limit = checks.page_size(page_size)
        whose = "" if user_id == ALL_USERS else _whose(caller, user_id)
        query = ("api tokens", whose, has_all)
        after = self._runtime.tokens.read(query, page_token)
        live_at = None if has_all else self._runtime.clock()
        async with self._runtime.database.reading() as c:
            found = await token_rows.list_tokens(c, whose, live_at, limit + 1, after)
        if len(found) <= limit:
            return found, ""
        last = found[limit - 1]
        return found[:limit], self._runtime.tokens.make(query, (last.created_at, last.id))

    async def revoke(self, token_id: str) -> TokenRecord:
        """Calls that run with it are ended. Raises InvalidRequest, NotFound."""
        token_id = checks.uuid("token_id", token_id)
        with ExitStack() as afterwards:
            async with self._principals.changing() as c:
                # However this ends: a commit that is cancelled is made all the same.
                afterwards.callback(self.calls.end, lambda running: running.token_id == token_id)
                record = await token_rows.get_token(c, token_id)
                if record is None:
                    raise NotFound(
                        f"there is no token {token_id}", hint="list tokens with `imsctl token list`"
                    )
                await token_rows.revoke_token(c, token_id, self._runtime.clock())
                record = await token_rows.get_token(c, token_id)
        assert record is not None
        return record

    @staticmethod
    def is_secret(text: str) -> bool:
        """Whether ``text`` has the shape of an API token, good or not."""
        return text.startswith(PREFIX)

    async def verify(self, secret: str) -> TokenRecord:
        """The token that a call brings. Raises Unauthenticated."""
        record = await self._found(secret)
        if record.revoked_at is not None:
            raise Unauthenticated(
                f"token {record.id} was revoked", reason="TOKEN_REVOKED", hint=ANOTHER_TOKEN
            )
        now = self._runtime.clock()
        if now >= record.expires_at:
            raise Unauthenticated(
                f"token {record.id} expired at {record.expires_at:%Y-%m-%d %H:%M:%S} UTC",
                reason="TOKEN_EXPIRED",
                hint=ANOTHER_TOKEN,
            )
        self.uses.note(record.id, now)
        return record

    async def _found(self, secret: str) -> TokenRecord:
        shape = _SECRET.match(secret)
        if shape is None:
            raise _unknown()
        given = _hash(secret)
        if known := self._verified.get(given):
            return known
        seen = self._principals.changes.count
        async with self._runtime.database.reading() as c:
            record = await token_rows.get_token(c, str(uuid.UUID(shape[1])))
        if record is None or not hmac.compare_digest(record.secret_hash, given):
            raise _unknown()
        self._verified.put(given, record, seen)
        return record


def _whose(caller: Caller, user_id: str) -> str:
    """The user that is meant. Whether the caller may mean it was decided before."""
    if not user_id and caller.kind not in (CallerKind.API_TOKEN, CallerKind.OIDC):
        # A certificate is no user, also when it is called like one.
        checks.refuse("user_id", "say which user", "only users have tokens: name one")
    return identity_checks.principal_name("user_id", user_id or caller.id)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _unknown() -> Unauthenticated:
    return Unauthenticated("the token is not known", hint=ANOTHER_TOKEN)
