"""What a caller tries in vain is traced at a rate that a disk bears."""

from __future__ import annotations

import asyncio

import pytest

from imsd.core.caller import THE_DAEMON, Caller, CallerKind
from imsd.grpc_server import failure_pace
from imsd.grpc_server.call_places import MAX_CALLS_OF_ONE
from imsd.grpc_server.failure_pace import BURST, FAILURES_PER_SECOND, FailurePace


def caller(name: str) -> Caller:
    return Caller(kind=CallerKind.API_TOKEN, id=name)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_some_failures_at_once_wait_for_nothing_and_more_wait_for_their_turn(clock: Clock) -> None:
    pace = FailurePace(clock)
    assert {pace.next_wait(caller("ann")) for _ in range(BURST + 1)} == {0.0}
    waits = [pace.next_wait(caller("ann")) for _ in range(MAX_CALLS_OF_ONE)]
    assert waits == pytest.approx([n / FAILURES_PER_SECOND for n in range(1, MAX_CALLS_OF_ONE + 1)])
    assert pace.next_wait(caller("bob")) == 0.0


def test_who_rests_has_his_reserve_again(clock: Clock) -> None:
    pace = FailurePace(clock)
    for _ in range(BURST + 10):
        pace.next_wait(caller("ann"))
    clock.now += 2
    assert pace.next_wait(caller("ann")) == 0.0
    clock.now += 3600
    assert {pace.next_wait(caller("ann")) for _ in range(BURST + 1)} == {0.0}
    assert pace.next_wait(caller("ann")) > 0


def test_the_local_administrator_never_waits(clock: Clock) -> None:
    pace = FailurePace(clock)
    assert {pace.next_wait(THE_DAEMON) for _ in range(3 * BURST)} == {0.0}


def test_only_callers_that_still_wait_are_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_pace, "MAX_CALLERS", 3)
    pace = FailurePace(clock)
    for number in range(50):
        pace.next_wait(caller(f"user-{number}"))
        clock.now += 1
    assert len(pace._free_at) <= 3


async def test_a_call_that_is_cut_off_waits_all_the_same(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_pace, "BURST", 0)
    pace = FailurePace(clock)
    assert await pace.wait(caller("ann")) is None
    waiting = asyncio.create_task(pace.wait(caller("ann")))
    await asyncio.sleep(0)
    waiting.cancel()
    assert isinstance(await waiting, asyncio.CancelledError)
