"""What somebody who may do anything with the database, but has no key, cannot hide; SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from imsd.contract import FailedPrecondition
from imsd.metadata import trace_writing
from imsd.metadata.trace_tables import trace_chain
from imsd.trace_chain import DOUBT, Trace
from tests.unit.traces.samples_of_traces import START, a_trace, rechained
from tests.unit.traces.trace_world import World

NewWorld = Callable[..., Any]

CLEARED = ("DELETE FROM trace", "DELETE FROM trace_seal")


async def some_calls(world: World, count: int = 5) -> list[Trace]:
    """Each with a seal."""
    for _ in range(count):
        await world.call()
        world.later(seconds=20)
    return await world.written()


async def replace_chain(world: World, forged: Sequence[Trace], **head: Any) -> None:
    """All traces but ``forged`` are gone, and the chain goes on after these."""
    await world.tamper(*CLEARED)
    values = {"sequence": forged[-1].sequence, "hash": forged[-1].hash, "sealed_sequence": 0}
    await world.database.run(trace_writing.insert_traces, forged)
    await world.tamper(update(trace_chain).values(values | head))


async def head(world: World) -> dict[str, Any]:
    async with world.database.reading() as c:
        return dict((await c.execute(select(trace_chain))).one()._mapping)


async def problems(world: World) -> str:
    return "\n".join((await world.verify()).problems)


async def doubts(world: World) -> list[str]:
    return [trace.message for trace in await world.written() if trace.name == DOUBT]


async def test_a_chain_that_was_written_anew_is_not_sealed_as_if_the_daemon_had_made_it(world: World) -> None:
    chain = await some_calls(world)
    forged = rechained([replace(each, caller_id="bob") for each in chain])
    await replace_chain(world, forged)
    assert "trace 5 was not written by a daemon with this key" in await problems(world)
    await world.upkeep.tick()
    lost, unmarked = sorted(await doubts(world))
    assert lost.startswith("trace 5 is not the one that was there")
    assert unmarked.startswith("trace 5 was not written")
    await world.call()
    world.later(days=1)
    await world.upkeep.tick()
    assert len(await doubts(world)) == 2
    assert "trace 6 says that" in await problems(world)


async def test_a_trace_of_a_call_that_never_was_is_told_apart(world: World) -> None:
    chain = await some_calls(world)
    invented = a_trace(caller_id="bob", time=world.now).chained(6, chain[-1].hash)
    await world.database.run(trace_writing.insert_traces, [invented])
    await world.tamper(update(trace_chain).values(sequence=6, hash=invented.hash))
    await world.call()
    assert len(await doubts(world)) == 1
    assert [trace.name for trace in await world.written()][5:] == ["updateImage", DOUBT, "updateImage"]
    assert "trace 7 says that" in await problems(world)


async def test_an_end_that_was_cut_off_is_missed_also_if_the_chain_grows_again(world: World) -> None:
    await some_calls(world, 3)
    before = await head(world)
    await some_calls(world, 2)
    await world.upkeep.tick()
    await world.tamper(
        "DELETE FROM trace WHERE sequence > 3",
        "DELETE FROM trace_seal WHERE sequence > 3",
        update(trace_chain).values(before),
    )
    assert "the chain ends with trace 3, but had trace 5" in await problems(world)
    await some_calls(world, 4)
    assert "trace 5 is not the one that was there" in await problems(world)
    await world.upkeep.tick()
    await world.upkeep.tick()
    assert len(await doubts(world)) == 1
    assert "trace 8 says that" in await problems(world)


async def test_a_chain_that_was_removed_with_everything_of_it_is_missed(world: World) -> None:
    await some_calls(world)
    await world.tamper(*CLEARED, "DELETE FROM trace_chain")
    assert "there is no chain, but it had trace 5" in await problems(world)
    await world.upkeep.tick()
    assert [trace.name for trace in await world.written()] == [DOUBT]
    assert "trace 1 says that" in await problems(world)


async def test_an_older_copy_of_the_database_is_noticed_at_the_start(
    new_world: NewWorld, tmp_path: Path
) -> None:
    world: World = await new_world(ends=tmp_path / "trace-ends")
    await some_calls(world, 3)
    before = await head(world)
    await some_calls(world, 2)
    await world.upkeep.stop()
    await world.tamper(
        "DELETE FROM trace WHERE sequence > 3",
        "DELETE FROM trace_seal WHERE sequence > 3",
        update(trace_chain).values(before),
    )
    later: World = await new_world(ends=tmp_path / "trace-ends")
    await later.upkeep.start()
    await later.upkeep.stop()
    (said,) = await doubts(later)
    assert "the chain ends with trace 3, but had trace 5" in said
    third: World = await new_world(ends=tmp_path / "trace-ends")
    await third.upkeep.start()
    await third.upkeep.stop()
    assert len(await doubts(third)) == 1


async def test_what_happens_every_day_raises_no_doubt(new_world: NewWorld, tmp_path: Path) -> None:
    """Old traces go, daemons crash and start, other daemons write."""
    now = START
    for _ in range(3):
        world: World = await new_world(ends=tmp_path / "trace-ends", retention=timedelta(days=2))
        other: World = await new_world(ends=tmp_path / "of-another")
        world.now = other.now = now
        await world.ends.load()
        await world.upkeep.tick()
        for each in (world, other):
            await some_calls(each, 2)
        other.now = now = world.later(days=3)
        await world.upkeep.tick()
        await some_calls(other, 1)
        await other.upkeep.tick()
    assert "removeTraces" in {trace.name for trace in await world.written()}
    assert await doubts(world) == []
    assert await problems(world) == await problems(other) == ""


async def test_a_chain_of_before_there_were_marks_of_its_end_goes_on(world: World) -> None:
    """Its daemon sealed it when it stopped."""
    await some_calls(world, 2)
    await world.tamper("UPDATE trace_chain SET mac = ''")
    assert await problems(world) == ""
    await world.call()
    assert await problems(world) == ""
    assert await doubts(world) == []


async def test_what_is_no_file_of_ends_stops_the_start(new_world: NewWorld, tmp_path: Path) -> None:
    for content in ("", "[]", '{"lab": [1]}', '{"lab": ["x", "y"]}'):
        (tmp_path / "trace-ends").write_text(content)
        world: World = await new_world(ends=tmp_path / "trace-ends")
        with pytest.raises(FailedPrecondition, match="trace-ends"):
            await world.upkeep.start()
