"""API tokens: what is kept of them, who may have and end them, and when they are good."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from imsd.contract import ImsError, InvalidRequest, LimitExceeded, NotFound, Unauthenticated
from imsd.core import identity_checks
from imsd.core.api_tokens import ApiTokens, NewToken
from imsd.core.authentication import Credentials
from imsd.core.caller import Caller, CallerKind
from imsd.core.identity_services import IdentityServices, identity_services
from imsd.core.principals import REMEMBER_SECONDS, Principals
from imsd.core.runtime import Runtime
from imsd.metadata import api_tokens as token_rows
from imsd.metadata import identity as identity_rows

NOON = datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC)
ADMINISTRATOR = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local")
ANN = Caller(kind=CallerKind.API_TOKEN, id="ann")
CERTIFICATE = Caller(kind=CallerKind.CERTIFICATE, id="ann")


class Clock:
    """Of the wall and of the caches, moved by the test."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp()

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(runtime: Runtime, clock: Clock) -> Runtime:
    return replace(runtime, clock=clock)


@pytest.fixture
async def services(timed: Runtime) -> IdentityServices:
    services = identity_services(timed)
    for name in ("ann", "bob"):
        await services.identity.create_user(name, "")
    return services


@pytest.fixture
def tokens(services: IdentityServices) -> ApiTokens:
    return services.tokens


async def make(tokens: ApiTokens, caller: Caller = ANN, user_id: str = "", seconds: int = 0) -> NewToken:
    return await tokens.create(caller, user_id, "ci", seconds)


def reason_of(error: pytest.ExceptionInfo[ImsError]) -> str:
    return error.value.reason


async def test_a_secret_has_its_shape_and_only_its_hash_is_kept(tokens: ApiTokens) -> None:
    made = await make(tokens)
    assert re.fullmatch(r"imsd_[0-9a-f]{32}_[A-Za-z0-9_-]{43}", made.secret)
    assert made.record.secret_hash == hashlib.sha256(made.secret.encode()).digest()
    assert made.secret not in repr(made)
    assert (await make(tokens)).secret[38:] != made.secret[38:]
    assert await tokens.verify(made.secret) == made.record


async def test_a_token_expires(tokens: ApiTokens, clock: Clock) -> None:
    made = await make(tokens, seconds=60)
    clock.pass_(59.9)
    await tokens.verify(made.secret)
    clock.pass_(0.1)
    with pytest.raises(Unauthenticated) as refused:
        await tokens.verify(made.secret)
    assert reason_of(refused) == "TOKEN_EXPIRED"


async def test_a_token_is_good_for_thirty_days_unless_said_otherwise(tokens: ApiTokens) -> None:
    made = await make(tokens)
    assert made.record.expires_at - made.record.created_at == timedelta(days=30)


@pytest.mark.parametrize("seconds", [-1, 1, 59, 366 * 86400 + 1, 1 << 62])
async def test_another_lifetime_is_refused(tokens: ApiTokens, seconds: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await make(tokens, seconds=seconds)
    assert refused.value.field == "lifetime_seconds"


@pytest.mark.parametrize("name", ["", " ci", "a" * 129, "a\nb", "a\x00", "<b>", "é\u202e"])
async def test_a_bad_name_is_refused(tokens: ApiTokens, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await tokens.create(ANN, "", name, 0)
    assert refused.value.field == "name"


async def test_a_revoked_token_is_refused_at_once_though_it_was_remembered(tokens: ApiTokens) -> None:
    made = await make(tokens)
    await tokens.verify(made.secret)
    revoked = await tokens.revoke(made.record.id)
    assert revoked.revoked_at == NOON
    with pytest.raises(Unauthenticated) as refused:
        await tokens.verify(made.secret)
    assert reason_of(refused) == "TOKEN_REVOKED"
    assert (await tokens.revoke(made.record.id)).revoked_at == NOON


async def test_a_token_that_another_daemon_revoked_is_refused_soon(
    timed: Runtime, services: IdentityServices, clock: Clock
) -> None:
    made = await make(services.tokens)
    other = ApiTokens(timed, Principals(timed.database, clock.monotonic), clock.monotonic)
    await other.verify(made.secret)
    await services.tokens.revoke(made.record.id)
    await other.verify(made.secret)  # remembered
    clock.pass_(REMEMBER_SECONDS)
    with pytest.raises(Unauthenticated):
        await other.verify(made.secret)


async def test_the_token_of_a_deleted_user_is_not_known(services: IdentityServices) -> None:
    made = await make(services.tokens)
    await services.tokens.verify(made.secret)
    await services.identity.delete_user("ann")
    await services.identity.create_user("ann", "another one")
    with pytest.raises(Unauthenticated) as refused:
        await services.tokens.verify(made.secret)
    assert reason_of(refused) == "UNAUTHENTICATED"


async def test_what_only_resembles_a_secret_is_refused(tokens: ApiTokens) -> None:
    good = (await make(tokens)).secret
    other = (await make(tokens)).secret
    await tokens.verify(good)
    for wrong in (
        good[:-1],
        good + "A",
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good[:38] + other[38:],
        good.upper(),
        f"imsd_{'0' * 32}_{'A' * 43}",
        "imsd_",
        f"{good}\n",
        f"imsd_{'a' * 100_000}",
        "imsd_é",
    ):
        with pytest.raises(Unauthenticated) as refused:
            await tokens.verify(wrong)
        assert reason_of(refused) == "UNAUTHENTICATED"
        assert wrong not in str(refused.value)


async def test_a_token_is_of_the_caller_unless_it_names_a_user(tokens: ApiTokens) -> None:
    assert (await make(tokens)).record.user_id == "ann"
    assert (await make(tokens, ADMINISTRATOR, "bob")).record.user_id == "bob"


async def test_a_certificate_is_no_user_even_of_the_same_name(tokens: ApiTokens) -> None:
    await make(tokens)
    for caller in (CERTIFICATE, ADMINISTRATOR):
        with pytest.raises(InvalidRequest):
            await make(tokens, caller)
        with pytest.raises(InvalidRequest):
            await tokens.list(caller, "", False, 0, "")


async def test_nobody_has_a_token_who_is_no_user(tokens: ApiTokens) -> None:
    with pytest.raises(NotFound):
        await make(tokens, replace(ANN, id="carl"))
    with pytest.raises(InvalidRequest):
        await make(tokens, ADMINISTRATOR, "*")


async def test_tokens_are_bounded_and_dead_ones_are_not_counted(
    tokens: ApiTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_checks, "MAX_LIVE_TOKENS", 2)
    first, _ = await make(tokens), await make(tokens)
    with pytest.raises(LimitExceeded):
        await make(tokens)
    await make(tokens, ADMINISTRATOR, "bob")
    await tokens.revoke(first.record.id)
    await make(tokens)


@pytest.mark.parametrize("wrong", ["", "x", "A" * 36, "{}" * 18])
async def test_what_is_no_id_of_a_token_is_refused(tokens: ApiTokens, wrong: str) -> None:
    with pytest.raises(InvalidRequest):
        await tokens.revoke(wrong)
    with pytest.raises(NotFound):
        await tokens.revoke("00000000-0000-0000-0000-000000000000")


async def test_tokens_are_listed_in_pages(tokens: ApiTokens, clock: Clock) -> None:
    made = []
    for _ in range(3):
        made.append((await make(tokens)).record)
        clock.pass_(1)
    page, token = await tokens.list(ANN, "", False, 2, "")
    assert page == made[:0:-1]
    assert await tokens.list(ANN, "ann", False, 2, token) == (made[:1], "")
    with pytest.raises(InvalidRequest):
        await tokens.list(ADMINISTRATOR, "*", False, 2, token)
    await tokens.revoke(made[1].id)
    assert [each.id for each in (await tokens.list(ADMINISTRATOR, "*", False, 0, ""))[0]] == [
        made[2].id,
        made[0].id,
    ]
    assert len((await tokens.list(ADMINISTRATOR, "*", True, 0, ""))[0]) == 3


async def test_the_last_use_is_written_once_a_minute(
    tokens: ApiTokens, timed: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    note = token_rows.note_uses

    async def watched(c: object, used_at: object) -> None:
        written.append(used_at)
        await note(c, used_at)  # type: ignore[arg-type]

    monkeypatch.setattr(token_rows, "note_uses", watched)
    made = await make(tokens)
    tokens.uses.close()  # writes at once
    for _ in range(100):
        await tokens.verify(made.secret)
    await timed.background.settle()
    minute = NOON.replace(second=0)
    assert written == [{made.record.id: minute}]
    clock.pass_(60)
    await tokens.verify(made.secret)
    await timed.background.settle()
    async with timed.database.reading() as c:
        found = await token_rows.get_token(c, made.record.id)
    assert found is not None
    assert found.last_used_at == minute + timedelta(minutes=1)


async def test_a_running_call_ends_when_its_token_is_revoked(services: IdentityServices) -> None:
    made, other = await make(services.tokens), await make(services.tokens)
    ended: list[str] = []

    async def run(secret: str) -> str:
        caller = await services.authentication.caller(Credentials(peer="ipv4:1", bearer=secret))
        try:
            async with services.tokens.calls.running(caller):
                await asyncio.sleep(3600)
        except Unauthenticated as error:
            ended.append(error.reason)
        return caller.id

    runs = [asyncio.create_task(run(secret)) for secret in (made.secret, made.secret, other.secret)]
    await asyncio.sleep(0.05)
    caller = await services.authentication.caller(Credentials(peer="ipv4:1", bearer=made.secret))
    async with services.tokens.calls.running(caller):  # the call that revokes its own token goes on
        await services.tokens.revoke(made.record.id)
        await services.tokens.revoke(made.record.id)
        await asyncio.gather(*runs[:2])
    assert ended == ["TOKEN_REVOKED"] * 2
    assert not runs[2].done()
    await services.identity.delete_user("ann")
    await runs[2]


@pytest.mark.parametrize("way", ["revoke", "delete"])
async def test_calls_end_also_when_nobody_waits_for_the_answer(
    services: IdentityServices, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A commit that its client cancels is made all the same, and a second call may find nothing to do."""
    made = await make(services.tokens)
    changing = services.principals.changing

    @asynccontextmanager
    async def cancelled_as_it_commits() -> AsyncIterator[Any]:
        async with changing() as c:
            yield c
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    async def change() -> None:
        if way == "delete":
            await services.identity.delete_user("ann")
        else:
            await services.tokens.revoke(made.record.id)

    async with running_with(services, made.secret) as run:
        monkeypatch.setattr(services.principals, "changing", cancelled_as_it_commits)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(change())
        async with asyncio.timeout(10):
            assert await run == "TOKEN_REVOKED"
    with pytest.raises(Unauthenticated):
        await services.tokens.verify(made.secret)


async def test_a_user_that_is_gone_already_has_no_running_calls(services: IdentityServices) -> None:
    made = await make(services.tokens)
    async with running_with(services, made.secret) as run:
        async with services.principals.changing() as c:
            await identity_rows.delete_user(c, "ann")
        with pytest.raises(NotFound):
            await services.identity.delete_user("ann")
        async with asyncio.timeout(10):
            assert await run == "TOKEN_REVOKED"


async def test_calls_go_on_when_the_change_has_not_begun(services: IdentityServices) -> None:
    made = await make(services.tokens)
    async with running_with(services, made.secret) as run:
        async with services.principals.changing():
            waiting = asyncio.create_task(services.identity.delete_user("ann"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait([waiting])
        await services.tokens.verify(made.secret)
        assert not run.done()


@asynccontextmanager
async def running_with(services: IdentityServices, secret: str) -> AsyncIterator[asyncio.Task[str]]:
    """A call that runs until it is ended; returns with which reason."""
    begun = asyncio.Event()

    async def call() -> str:
        caller = await services.authentication.caller(Credentials(peer="ipv4:1", bearer=secret))
        try:
            async with services.tokens.calls.running(caller):
                begun.set()
                await asyncio.sleep(3600)
        except Unauthenticated as error:
            return error.reason
        return ""

    run = asyncio.create_task(call())
    await begun.wait()
    try:
        yield run
    finally:
        run.cancel()


async def test_a_timeout_of_the_call_itself_is_no_revocation(services: IdentityServices) -> None:
    caller = replace(ANN, token_id="x")
    with pytest.raises(TimeoutError):
        async with services.tokens.calls.running(caller), asyncio.timeout(0.01):
            await asyncio.sleep(3600)
