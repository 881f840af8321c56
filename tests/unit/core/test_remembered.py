"""What is remembered is forgotten in time: after seconds, after a change, when there is too much of it."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import Unauthenticated
from imsd.core.authentication import Credentials
from imsd.core.caller import Caller, CallerKind
from imsd.core.identity_services import identity_services
from imsd.core.remembered import Changes, Remembered
from imsd.core.runtime import Runtime
from imsd.metadata import api_tokens as token_rows
from imsd.metadata.identity_records import TokenRecord

ADMINISTRATOR = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local")


class Ticking:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_value_is_kept_for_some_seconds() -> None:
    clock = Ticking()
    kept: Remembered[str, int] = Remembered(Changes(), 5.0, 10, clock)
    assert kept.get("a") is None
    kept.put("a", 1, 0)
    clock.now = 4.9
    assert kept.get("a") == 1
    clock.now = 5.0
    assert kept.get("a") is None


def test_a_change_makes_everything_forgotten_also_what_was_being_read() -> None:
    changes = Changes()
    kept: Remembered[str, int] = Remembered(changes, 5.0, 10, Ticking())
    kept.put("a", 1, changes.count)
    seen = changes.count
    changes.happened()
    kept.put("b", 2, seen)  # read before the change
    kept.put("c", 3, changes.count)
    assert [kept.get(key) for key in "abc"] == [None, None, 3]


def test_the_oldest_go_when_there_are_too_many() -> None:
    kept: Remembered[int, int] = Remembered(Changes(), 5.0, 3, Ticking())
    for number in range(100):
        kept.put(number, number, 0)
    assert [number for number in range(100) if kept.get(number) is not None] == [97, 98, 99]
    kept.put(97, 0, 0)
    kept.put(100, 100, 0)
    assert kept.get(98) is None
    assert kept.get(97) == 0


class SlowLookUp:
    """Of a token: what was read is handed over only when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.was_read, self.may_go_on = asyncio.Event(), asyncio.Event()
        self._read = token_rows.get_token
        self._patch = monkeypatch
        monkeypatch.setattr(token_rows, "get_token", self._slowly)

    async def _slowly(self, c: AsyncConnection, token_id: str) -> TokenRecord | None:
        self._patch.setattr(token_rows, "get_token", self._read)
        found = await self._read(c, token_id)
        self.was_read.set()
        await self.may_go_on.wait()
        return found


async def test_a_token_that_is_revoked_while_it_is_looked_up_is_not_remembered(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = identity_services(runtime)
    await services.identity.create_user("ann", "")
    made = await services.tokens.create(ADMINISTRATOR, "ann", "t", 0)
    look_up = SlowLookUp(monkeypatch)
    given = Credentials(peer="unix:", bearer=made.secret)
    looking = asyncio.create_task(services.authentication.caller(given))
    await look_up.was_read.wait()
    await services.tokens.revoke(made.record.id)
    look_up.may_go_on.set()
    assert (await looking).id == "ann"  # it came before
    for _ in range(2):
        with pytest.raises(Unauthenticated) as refused:
            await services.authentication.caller(given)
        assert refused.value.reason == "TOKEN_REVOKED"


async def test_a_call_whose_token_is_revoked_while_it_is_looked_up_does_not_run_on(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = identity_services(runtime)
    await services.identity.create_user("ann", "")
    made = await services.tokens.create(ADMINISTRATOR, "ann", "t", 0)
    look_up = SlowLookUp(monkeypatch)
    has_begun = False

    async def call() -> None:
        nonlocal has_begun
        async with services.authentication.calling(Credentials(peer="unix:", bearer=made.secret)):
            has_begun = True

    calling = asyncio.create_task(call())
    await look_up.was_read.wait()
    await services.tokens.revoke(made.record.id)
    look_up.may_go_on.set()
    with pytest.raises(Unauthenticated) as refused:
        await calling
    assert refused.value.reason == "TOKEN_REVOKED"
    assert not has_begun
