"""Each call leaves one trace, however it and its daemon end; SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from imsd.contract import NotFound, Unavailable
from imsd.core.trace_text import SERVICE_CHAIN
from imsd.metadata import engine, uploads
from imsd.metadata.database import open_database
from imsd.metadata.identity import delete_project, insert_project, what_a_project_has
from imsd.metadata.identity_records import ProjectRecord
from imsd.metadata.images import insert_image
from imsd.metadata.records import ImageRecord, ImageStatus, Visibility
from imsd.metadata.tables import image_member
from imsd.testing.memory_store import MemoryStore
from imsd.trace_chain import Trace, TraceOutcome
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.metadata.samples import an_image, an_upload
from tests.unit.traces.samples_of_traces import START, a_trace
from tests.unit.traces.trace_world import World

NewWorld = Callable[..., Any]


async def test_a_call_leaves_one_trace_and_no_intent(world: World) -> None:
    begun = await world.recorder.begin(a_trace(outcome=TraceOutcome.INTERRUPTED))
    assert (await world.intents(), await world.written()) == (1, [])
    await world.recorder.end(replace(begun, outcome=TraceOutcome.FAILED, reason="CONFLICT"), has_intent=True)
    (trace,) = await world.written()
    assert await world.intents() == 0
    assert (trace.id, trace.outcome, trace.reason, trace.sequence) == (begun.id, "failed", "CONFLICT", 1)


async def test_a_denied_call_leaves_a_trace_without_ever_having_begun(world: World) -> None:
    async with world.database.transaction() as c:
        await insert_project(c, ProjectRecord(id="lab", description="", created_at=START))
    await world.recorder.end(a_trace(outcome=TraceOutcome.DENIED), has_intent=False)
    (trace,) = await world.written()
    assert trace.outcome is TraceOutcome.DENIED


async def test_a_call_does_not_begin_in_a_project_that_was_deleted_and_keeps_one_from_it(
    world: World,
) -> None:
    """Between the look at the project and the work, a project may be deleted; or the work comes first."""
    for name in ("lab", "web"):
        async with world.database.transaction() as c:
            await insert_project(c, ProjectRecord(id=name, description="", created_at=START))
    begun = await world.recorder.begin(a_trace(project_id="lab"))
    async with world.database.transaction() as c:
        assert await what_a_project_has(c, "lab") == "running call that changes something"
        assert await what_a_project_has(c, "web") == ""
        await delete_project(c, "web", START)
    late = a_trace(project_id="web")
    other = world.recorder.begin(a_trace(project_id="lab"))
    found = await asyncio.gather(world.recorder.begin(late), other, return_exceptions=True)
    assert isinstance(found[0], NotFound)
    assert found[0].reason == "PROJECT_UNKNOWN"
    assert await world.intents() == 2
    await world.recorder.end(replace(late, outcome=TraceOutcome.FAILED), has_intent=False)
    assert [trace.details["project_id"] for trace in await world.written(SERVICE_CHAIN)] == ["web"]
    for trace in (begun, found[1]):
        assert isinstance(trace, Trace)
        await world.recorder.end(trace, has_intent=True)
    async with world.database.transaction() as c:
        assert await what_a_project_has(c, "lab") == ""


async def test_a_call_denied_in_a_project_that_there_is_not_makes_no_chain_of_its_name(world: World) -> None:
    for name in ("lab", "web"):
        denied = a_trace(outcome=TraceOutcome.DENIED, project_id=name)
        await world.recorder.end(denied, has_intent=False)
    assert await world.written("lab") == []
    traces = await world.written(SERVICE_CHAIN)
    assert [trace.details["project_id"] for trace in traces] == ["lab", "web"]


async def test_calls_that_run_at_once_make_one_chain_a_project(world: World) -> None:
    projects = ["lab", "web", "db"]
    await asyncio.gather(*[world.call(project_id=projects[number % 3]) for number in range(210)])
    for project in projects:
        written = await world.written(project)
        assert [trace.sequence for trace in written] == list(range(1, 71))
        check = await world.verify(project)
        assert (check.problems, check.traces_checked) == ([], 70)
    assert await world.intents() == 0


async def test_calls_of_several_daemons_make_one_chain(postgresql_world: list[World]) -> None:
    await asyncio.gather(*[world.call() for world in postgresql_world for _ in range(60)])
    check = await postgresql_world[0].verify()
    assert (check.problems, check.last_sequence) == ([], 60 * len(postgresql_world))


@pytest.fixture
async def postgresql_world(
    request: pytest.FixtureRequest, database_url: str, new_world: NewWorld
) -> list[World]:
    if not database_url.startswith("postgresql"):
        pytest.skip("a database in a file has one daemon")
    return [await new_world() for _ in range(3)]


@pytest.mark.parametrize("step", ["begin", "end"])
async def test_a_call_that_is_cancelled_while_it_is_recorded_is_recorded(world: World, step: str) -> None:
    trace = a_trace()
    if step == "end":
        await world.recorder.begin(trace)
    work = world.recorder.begin(trace) if step == "begin" else world.recorder.end(trace, has_intent=True)
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await world.intents(), len(await world.written())) == ((1, 0) if step == "begin" else (0, 1))


async def stored(world: World, **values: Any) -> ImageRecord:
    record = an_image(status=ImageStatus.ACTIVE, **values)
    async with world.database.transaction() as c:
        await insert_image(c, record)
    return record


async def test_a_trace_has_the_name_of_the_image_as_it_was_then(world: World) -> None:
    record = await stored(world, name="before")
    trace = await world.call(resource_id=record.id)
    assert trace.resource_name == "before"
    assert [each.resource_name for each in await world.written()] == ["before"]


async def test_a_trace_has_the_name_of_the_file_of_an_upload(world: World) -> None:
    record = an_upload(file_name="disk.raw")
    async with world.database.transaction() as c:
        await uploads.insert_upload(c, record)
    assert (await world.call(resource_type="upload", resource_id=record.id)).resource_name == "disk.raw"
    stranger = await world.call(resource_type="upload", resource_id=record.id, project_id="other")
    assert stranger.resource_name == ""


async def test_a_trace_tells_nobody_the_name_of_an_image_that_is_not_to_be_seen(world: World) -> None:
    private = await stored(world, name="secret", project_id="other")
    shared = await stored(world, name="shared", project_id="other", visibility=Visibility.SHARED)
    public = await stored(world, name="public", project_id="other", visibility=Visibility.PUBLIC)
    async with world.database.transaction() as c:
        row = {"image_id": shared.id, "project_id": "lab", "status": "pending"}
        await c.execute(insert(image_member).values(row | {"created_at": START, "updated_at": START}))
    names = [(await world.call(resource_id=each.id)).resource_name for each in (private, shared, public)]
    assert names == ["", "shared", "public"]
    other = await world.call(resource_id=shared.id, project_id="third")
    assert other.resource_name == ""


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Another program has the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
async def hasty_world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """On SQLite, which waits for a lock only for a moment."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 20)
    async with (
        open_database(sqlite_url) as database,
        open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime,
    ):
        yield World(runtime)


async def test_a_call_that_cannot_be_recorded_does_not_begin(hasty_world: World, tmp_path: Path) -> None:
    with busy(tmp_path / "imsd.db"), pytest.raises(Unavailable):
        await hasty_world.recorder.begin(a_trace())
    assert (await hasty_world.intents(), await hasty_world.written()) == (0, [])
    await hasty_world.call()
    assert len(await hasty_world.written()) == 1


async def test_a_call_whose_end_cannot_be_recorded_is_not_answered_and_recorded_later(
    hasty_world: World, tmp_path: Path
) -> None:
    begun = await hasty_world.recorder.begin(a_trace())
    with busy(tmp_path / "imsd.db"), pytest.raises(Unavailable, match="has ended, but its trace"):
        await hasty_world.recorder.end(begun, has_intent=True)
    assert (await hasty_world.intents(), await hasty_world.written()) == (1, [])
    assert await hasty_world.recorder.write_late() == 0
    (trace,) = await hasty_world.written()
    assert (trace.id, trace.outcome) == (begun.id, TraceOutcome.SUCCEEDED)
    assert await hasty_world.intents() == 0


async def test_what_is_late_is_written_with_the_next_call(hasty_world: World, tmp_path: Path) -> None:
    begun = await hasty_world.recorder.begin(a_trace())
    with busy(tmp_path / "imsd.db"), pytest.raises(Unavailable):
        await hasty_world.recorder.end(begun, has_intent=True)
    next_one = await hasty_world.call()
    assert [trace.id for trace in await hasty_world.written()] == [begun.id, next_one.id]


async def test_a_denied_call_that_cannot_be_recorded_is_not_kept(hasty_world: World, tmp_path: Path) -> None:
    with busy(tmp_path / "imsd.db"), pytest.raises(Unavailable):
        await hasty_world.recorder.end(a_trace(outcome=TraceOutcome.DENIED), has_intent=False)
    assert await hasty_world.recorder.write_late() == 0
    assert await hasty_world.written() == []


async def test_a_trace_is_written_once_though_its_end_comes_twice(world: World) -> None:
    ended = await world.call()
    await world.recorder.end(ended, has_intent=True)
    assert [trace.id for trace in await world.written()] == [ended.id]


async def test_a_trace_that_no_database_takes_hinders_no_other(world: World) -> None:
    wrong: Any = a_trace(time=None)
    calls = [world.call(), world.recorder.end(replace(wrong, time="never"), has_intent=False), world.call()]
    first, failure, second = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(failure, Exception)
    assert {trace.id for trace in await world.written()} == {first.id, second.id}  # type: ignore[union-attr]
    assert (await world.verify()).is_intact
