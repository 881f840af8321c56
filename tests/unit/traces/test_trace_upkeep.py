"""Seals, calls whose daemon died, and old age; SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from imsd.core import trace_upkeep
from imsd.core.chain_writer import SEAL_TRACES
from imsd.core.trace_recorder import INTENT_LEASE
from imsd.metadata.traces import remove_traces
from imsd.trace_chain import TraceOutcome
from tests.unit.traces.samples_of_traces import OTHER_KEY, a_trace
from tests.unit.traces.trace_world import World

NewWorld = Callable[..., Any]
MOMENT = timedelta(seconds=1)


async def test_a_quiet_chain_has_each_trace_sealed_at_once(world: World) -> None:
    for _ in range(3):
        await world.call()
        world.later(seconds=10)
    assert await world.seals() == [1, 2, 3]


async def test_a_busy_chain_is_sealed_now_and_then(world: World) -> None:
    for _ in range(2 * SEAL_TRACES + 5):
        await world.call()
    assert await world.seals() == [1, 1 + SEAL_TRACES, 1 + 2 * SEAL_TRACES]
    await world.upkeep.tick()
    assert await world.seals() == [1, 1 + SEAL_TRACES, 1 + 2 * SEAL_TRACES, 5 + 2 * SEAL_TRACES]
    await world.upkeep.tick()
    assert len(await world.seals()) == 4


async def test_a_daemon_that_stops_seals_everything(world: World) -> None:
    for project in ("lab", "web"):
        for _ in range(3):
            await world.call(project_id=project)
    await world.upkeep.stop()
    assert (await world.seals("lab"), await world.seals("web")) == ([1, 3], [1, 3])


async def test_a_call_whose_daemon_died_becomes_an_interrupted_trace_once(new_world: NewWorld) -> None:
    dead: World = await new_world()
    begun = await dead.recorder.begin(a_trace(time=dead.now, outcome=TraceOutcome.INTERRUPTED))
    world: World = await new_world()
    world.later(minutes=11)
    assert await world.upkeep.start() == 1
    await world.upkeep.stop()
    (trace,) = await world.written()
    assert (trace.id, trace.outcome, trace.time) == (begun.id, TraceOutcome.INTERRUPTED, world.now)
    assert trace.details == {"update_mask": "name", "began_at": "2026-05-01T12:00:00.123456Z"}
    assert "before the outcome was known" in trace.message
    third: World = await new_world()
    assert await third.upkeep.start() == 0
    await third.upkeep.stop()
    assert len(await world.written()) == 1


async def test_a_daemon_that_starts_seals_what_a_dead_one_did_not(new_world: NewWorld) -> None:
    dead: World = await new_world()
    for _ in range(5):
        await dead.call()
    assert await dead.seals() == [1]
    world: World = await new_world()
    await world.upkeep.start()
    assert await world.seals() == [1, 5]
    await world.upkeep.stop()


async def test_a_database_in_a_file_knows_at_once_that_the_daemon_before_is_dead(
    new_world: NewWorld, database_url: str
) -> None:
    """One that several daemons share waits until the lease is over: they may live."""
    dead: World = await new_world()
    await dead.recorder.begin(a_trace(time=dead.now))
    world: World = await new_world()
    assert await world.upkeep.start() == (1 if database_url.startswith("sqlite") else 0)
    await world.upkeep.stop()


async def test_a_daemon_that_lives_keeps_its_calls(new_world: NewWorld, database_url: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a database in a file has one daemon")
    busy: World = await new_world()
    other: World = await new_world()
    begun = await busy.recorder.begin(a_trace(time=busy.now))
    for _ in range(5):
        busy.later(minutes=5)
        await busy.upkeep.tick()
        other.now = busy.now
        await other.upkeep.tick()
    assert await busy.written() == []
    await busy.recorder.end(begun, has_intent=True)
    (trace,) = await busy.written()
    assert trace.outcome is TraceOutcome.SUCCEEDED


async def test_a_daemon_that_was_thought_dead_does_not_write_a_second_trace(
    new_world: NewWorld, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a database in a file has one daemon")
    frozen: World = await new_world()
    begun = await frozen.recorder.begin(a_trace(time=frozen.now))
    other: World = await new_world()
    other.now = frozen.now + INTENT_LEASE + MOMENT
    await other.upkeep.tick()
    await frozen.recorder.end(begun, has_intent=True)
    (trace,) = await frozen.written()
    assert trace.outcome is TraceOutcome.INTERRUPTED


async def old_and_new(world: World) -> None:
    """Five days with three calls each."""
    for _ in range(5):
        for _ in range(3):
            await world.call()
            world.later(seconds=1)
        await world.upkeep.seal()
        world.later(days=1)


async def test_old_traces_go_up_to_a_seal_and_the_rest_is_still_proved(new_world: NewWorld) -> None:
    world: World = await new_world(retention=timedelta(days=3))
    await old_and_new(world)
    assert await world.upkeep.remove_old(world.now) == 9
    written = await world.written()
    assert [trace.sequence for trace in written] == list(range(10, 17))
    assert (written[-1].name, written[-1].details["up_to"]) == ("removeTraces", "9")
    assert (written[-1].caller_id, written[-1].outcome) == ("imsd", TraceOutcome.SUCCEEDED)
    check = await world.verify()
    assert (check.problems, check.first_sequence, check.last_sequence) == ([], 10, 16)
    assert (await world.seals())[0] == 9


async def test_traces_are_removed_once_a_day(new_world: NewWorld) -> None:
    world: World = await new_world(retention=timedelta(days=3))
    await old_and_new(world)
    await world.upkeep.remove_old(world.now)
    world.later(hours=20)
    assert await world.upkeep.remove_old(world.now) == 0
    world.later(days=2)
    assert await world.upkeep.remove_old(world.now) == 6
    assert (await world.verify()).is_intact


async def test_a_removal_that_a_crash_cut_short_goes_on(
    new_world: NewWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: World = await new_world(retention=timedelta(days=1))
    await old_and_new(world)
    monkeypatch.setattr(trace_upkeep, "MAX_REMOVED", 3)
    before = world.now - timedelta(days=1)
    await world.database.run(world.upkeep._note_removal, "lab", 12, before)
    await world.database.run(remove_traces, "lab", 12, 3)
    assert (await world.verify()).is_intact  # between two steps
    await world.upkeep.remove_old(world.now)
    assert (await world.verify()).is_intact
    assert (await world.written())[0].sequence == 16


async def test_nothing_is_noted_while_nothing_can_go(new_world: NewWorld) -> None:
    """The only seal that covers an old trace covers one that is not old, too."""
    world: World = await new_world(retention=timedelta(days=1))
    for _ in range(3):
        await world.call()
        world.later(days=3)
    await world.tamper("DELETE FROM trace_seal WHERE sequence = 2")
    world.later(days=-2)  # the first two are old, the third is not
    assert await world.upkeep.remove_old(world.now) == 1
    for _ in range(3):
        assert await world.upkeep.remove_old(world.now) == 0
    assert [trace.name for trace in await world.written()].count("removeTraces") == 1


async def test_a_chain_goes_on_when_all_that_is_old_is_gone(new_world: NewWorld) -> None:
    world: World = await new_world(retention=timedelta(days=1))
    await old_and_new(world)
    world.later(days=30)
    assert await world.upkeep.remove_old(world.now) == 15
    assert [trace.name for trace in await world.written()] == ["removeTraces"]
    await world.call()
    check = await world.verify()
    assert (check.problems, check.first_sequence, check.last_sequence) == ([], 16, 17)


async def test_without_a_retention_nothing_is_removed(world: World) -> None:
    await old_and_new(world)
    world.later(days=3000)
    assert await world.upkeep.remove_old(world.now) == 0
    assert len(await world.written()) == 15


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trace SET caller_id = 'bob'",
        "DELETE FROM trace WHERE sequence = 5",
        "DELETE FROM trace",
        "UPDATE trace_seal SET hash = ''",
        "DELETE FROM trace_seal WHERE sequence = 4",
    ],
)
async def test_the_database_itself_keeps_traces_and_seals(world: World, statement: str) -> None:
    for _ in range(3):
        await world.call()
        world.later(seconds=20)
    for _ in range(3):
        await world.call()
    with pytest.raises(DBAPIError, match=r"append-only|up to a seal"):
        async with world.database.transaction() as c:
            await c.execute(text(statement))
    assert (await world.verify()).is_intact
    assert len(await world.written()) == 6


async def test_a_sealed_trace_that_the_database_lets_go_is_missed(world: World) -> None:
    """Of those that a seal covers, the oldest must be able to go."""
    for _ in range(6):
        await world.call()
        world.later(seconds=20)
    assert (await world.verify()).is_intact
    async with world.database.transaction() as c:
        await c.execute(text("DELETE FROM trace WHERE sequence = 2"))
    assert not (await world.verify()).is_intact


async def test_a_daemon_with_another_key_says_so(
    new_world: NewWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world: World = await new_world()
    await world.call()
    other: World = await new_world(key=OTHER_KEY)
    await other.upkeep.start()
    await other.upkeep.stop()
    assert "sealed with a key that this daemon has not" in capsys.readouterr().out
    assert (await other.verify()).problems[0].startswith("the seal of trace 1 was made with another key")
