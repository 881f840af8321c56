"""Calls that run: they are asked about again and again, and end when their caller may have them no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from imsd.contract import ImsError, Unavailable
from imsd.core.access import Access, Target
from imsd.core.authentication import Credentials
from imsd.core.background import Background
from imsd.core.caller import Caller, CallerKind
from imsd.core.identity_services import IdentityServices, identity_services
from imsd.core.policies.decisions import Policies
from imsd.core.policies.loading import load_policies
from imsd.core.running_calls import RunningCalls
from imsd.core.runtime import Runtime
from imsd.metadata.identity_records import PrincipalKind

ADMINISTRATOR = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local")
ANN = Caller(kind=CallerKind.API_TOKEN, id="ann")
FULL = "IMS FullAccess"
EXPORT = "ims:images:export"
REVIEW_SECONDS = 0.02


class Clock:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def services(runtime: Runtime, clock: Clock) -> IdentityServices:
    services = identity_services(replace(runtime, clock=clock))
    await services.projects.create("lab", "")
    await services.identity.create_user("ann", "")
    await services.grants.grant(PrincipalKind.USER, "ann", "lab", FULL)
    return services


@pytest.fixture
async def calls() -> AsyncIterator[RunningCalls]:
    background = Background()
    calls = RunningCalls(background, REVIEW_SECONDS)
    yield calls
    calls.close()
    await background.settle()


async def ended(task: asyncio.Task[str]) -> str:
    async with asyncio.timeout(20):
        return await task


async def is_going_on(task: asyncio.Task[str]) -> bool:
    """After some reviews."""
    await asyncio.sleep(REVIEW_SECONDS * 5)
    return not task.done()


@asynccontextmanager
async def a_call(
    calls: RunningCalls, caller: Caller, who: Callable[[], object], review: object = None
) -> AsyncIterator[asyncio.Task[str]]:
    """One that runs until it is ended; returns the reason."""
    begun = asyncio.Event()

    async def run() -> str:
        try:
            async with calls.running(caller, who) as call:  # type: ignore[arg-type]
                call.may_go_on = review  # type: ignore[assignment]
                begun.set()
                await asyncio.sleep(3600)
        except ImsError as error:
            return error.reason
        return ""

    task = asyncio.create_task(run())
    await begun.wait()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def a_call_of_ann(
    calls: RunningCalls, services: IdentityServices, seconds: int = 0
) -> AsyncIterator[asyncio.Task[str]]:
    """A download in lab, with a token."""
    access = Access(services.principals._database, Policies(load_policies()))
    made = await services.tokens.create(ANN, "", "ci", seconds)
    given = Credentials(peer="ipv4:1", bearer=made.secret)
    who = partial(services.authentication.caller, given, is_running=True)

    async def review(caller: Caller) -> None:
        await access.require(caller, EXPORT, Target(project_id="lab"))

    async with a_call(calls, await who(), who, review) as task:
        yield task


async def test_a_withdrawn_role_ends_a_call(calls: RunningCalls, services: IdentityServices) -> None:
    async with a_call_of_ann(calls, services) as task:
        assert await is_going_on(task)
        await services.grants.revoke(PrincipalKind.USER, "ann", "lab", FULL)
        assert await ended(task) == "PERMISSION_DENIED"


async def test_a_token_that_expires_ends_a_call(
    calls: RunningCalls, services: IdentityServices, clock: Clock
) -> None:
    async with a_call_of_ann(calls, services, 60) as task, a_call_of_ann(calls, services, 120) as other:
        clock.now += timedelta(seconds=59)
        assert await is_going_on(task)
        clock.now += timedelta(seconds=1)
        assert await ended(task) == "TOKEN_EXPIRED"
        assert await is_going_on(other)


async def test_a_token_that_another_daemon_revoked_ends_a_call(
    calls: RunningCalls, services: IdentityServices, runtime: Runtime
) -> None:
    elsewhere = identity_services(runtime)
    async with a_call_of_ann(calls, services) as task:
        for token in (await elsewhere.tokens.list(ANN, "", True, 0, ""))[0]:
            await elsewhere.tokens.revoke(token.id)
        services.principals.changes.happened()  # as when what it remembers is some seconds old
        assert await ended(task) == "TOKEN_REVOKED"


async def test_a_call_goes_on_while_nobody_can_tell(calls: RunningCalls) -> None:
    asked = Counter[str]()

    async def away() -> Caller:
        asked["away"] += 1
        raise Unavailable("the provider is away")

    async def broken() -> Caller:
        asked["broken"] += 1
        raise ValueError("a defect")

    async with a_call(calls, ANN, away) as task, a_call(calls, ANN, broken) as other:
        async with asyncio.timeout(20):
            while min(asked["away"], asked["broken"]) < 2:
                await asyncio.sleep(REVIEW_SECONDS)
        assert not task.done()
        assert not other.done()


async def test_the_administrator_is_not_asked_again(calls: RunningCalls) -> None:
    async def who() -> Caller:
        raise AssertionError("asked")

    async with a_call(calls, ADMINISTRATOR, who) as task:
        assert await is_going_on(task)


async def test_calls_that_are_over_are_not_asked_about_and_later_ones_are(
    calls: RunningCalls, services: IdentityServices
) -> None:
    for _ in range(2):
        async with a_call_of_ann(calls, services) as task:
            assert await is_going_on(task)
        while calls._is_reviewing:
            await asyncio.sleep(REVIEW_SECONDS)
    async with a_call_of_ann(calls, services) as task:
        await services.grants.revoke(PrincipalKind.USER, "ann", "lab", FULL)
        assert await ended(task) == "PERMISSION_DENIED"
