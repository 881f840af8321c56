"""Lists, exports and the check of chains in a database; SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from imsd.contract import InvalidRequest, NotFound
from imsd.core import traces as reading
from imsd.metadata import traces as rows
from imsd.metadata.database import Database
from imsd.metadata.rows import MAX_VARIABLES
from imsd.metadata.trace_tables import trace as trace_table
from imsd.metadata.trace_tables import trace_chain
from imsd.metadata.traces import TraceQuery
from imsd.trace_chain import GENESIS, TraceOutcome
from tests.unit.traces.samples_of_traces import START, a_trace, at, new_id, rechained
from tests.unit.traces.trace_world import World


async def filled(world: World, count: int = 6) -> list[str]:
    """Calls a second apart; the ids of their traces."""
    ids = []
    for number in range(count):
        name = ("createImage", "deleteImage")[number % 2]
        ids.append((await world.call(name=name, caller_id=f"user-{number}", resource_id=f"r{number}")).id)
        world.later(seconds=1)
    return ids


@pytest.mark.parametrize(
    ("condition", "fitting"),
    [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"names": ("createImage",)}, [4, 2, 0]),
        ({"names": ("createImage", "deleteImage", "nothing")}, [5, 4, 3, 2, 1, 0]),
        ({"outcomes": (TraceOutcome.FAILED,)}, []),
        ({"outcomes": (TraceOutcome.FAILED, TraceOutcome.SUCCEEDED)}, [5, 4, 3, 2, 1, 0]),
        ({"caller_id": "user-3"}, [3]),
        ({"resource_id": "r2"}, [2]),
        ({"resource_type": "image"}, [5, 4, 3, 2, 1, 0]),
        ({"resource_type": "upload"}, []),
        ({"request_id": "r"}, []),
        ({"from_time": at(2)}, [5, 4, 3, 2]),
        ({"to_time": at(2)}, [1, 0]),
        ({"from_time": at(1), "to_time": at(4), "names": ("deleteImage",)}, [3, 1]),
    ],
)
async def test_a_list_has_what_fits_newest_first_in_pages_of_any_size(
    world: World, condition: dict[str, Any], fitting: list[int]
) -> None:
    ids = await filled(world)
    await world.call(project_id="other")
    query = TraceQuery(project_id="lab", **condition)
    for size in (1, 2, 100):
        found, token = [], ""
        while True:
            page, token = await world.traces.list(query, size, token)
            assert len(page) <= size
            found += [trace.id for trace in page]
            if not token:
                break
        assert found == [ids[number] for number in fitting]


async def test_a_page_token_is_of_one_query(world: World) -> None:
    await filled(world)
    _, token = await world.traces.list(TraceQuery(project_id="lab"), 2, "")
    for other in (TraceQuery(project_id="other"), TraceQuery(project_id="lab", names=("createImage",))):
        with pytest.raises(InvalidRequest, match="page token"):
            await world.traces.list(other, 2, token)


async def test_a_trace_is_found_in_its_project_only(world: World) -> None:
    trace = await world.call()
    assert (await world.traces.get("lab", trace.id)).id == trace.id
    for project_id, trace_id in (("other", trace.id), ("lab", new_id())):
        with pytest.raises(NotFound):
            await world.traces.get(project_id, trace_id)


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"names": ("x",)},
        {"outcomes": (TraceOutcome.DENIED,)},
        {"caller_id": "x"},
        {"resource_id": "x"},
        {"resource_type": "x"},
        {"request_id": "x"},
        {"from_time": START, "to_time": at(1)},
        {"from_time": START, "caller_id": "x"},
    ],
)
async def test_every_filter_is_found_in_an_index_without_sorting(
    sqlite_database: Database, condition: dict[str, Any]
) -> None:
    query = rows._fitting(select(trace_table.c.id), TraceQuery(project_id="lab", **condition))
    query = query.order_by(trace_table.c.time.desc(), trace_table.c.sequence.desc()).limit(10)
    async with sqlite_database.reading() as c:
        sql = str(query.compile(c.engine.sync_engine, compile_kwargs={"literal_binds": True}))
        plan = [row[3] for row in await c.execute(text(f"EXPLAIN QUERY PLAN {sql}"))]
    assert all("USING INDEX" in step and "ORDER BY" not in step for step in plan), plan
    column = next((name for name in condition if "time" not in name), "time").removesuffix("s")
    assert f"ix_trace_project_id_{column}" in plan[0]


async def exported(world: World, query: TraceQuery, after: int = 0) -> tuple[list[int], list[int]]:
    traces, seals = [], []
    async for piece in world.traces.export(query, after):
        assert piece.traces
        traces += [trace.sequence for trace in piece.traces]
        seals += [seal.sequence for seal in piece.seals]
    return traces, seals


async def test_an_export_has_all_oldest_first_with_the_seals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 4)
    for _ in range(9):
        await world.call()
        world.later(seconds=4)
    everything = TraceQuery(project_id="lab")
    assert await exported(world, everything) == ([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 4, 7])
    assert await exported(world, everything, after=4) == ([5, 6, 7, 8, 9], [4, 7])
    assert await exported(world, everything, after=9) == ([], [])
    some = TraceQuery(project_id="lab", from_time=at(8), to_time=at(20))
    assert await exported(world, some) == ([3, 4, 5], [4])
    assert await exported(world, TraceQuery(project_id="lab", names=("nothing",))) == ([], [])


async def test_an_export_brings_no_seals_but_those_of_its_traces(world: World) -> None:
    """However many lie between two traces that fit."""
    for number in range(12):
        await world.call(name="createImage" if number in (2, 9) else "updateImage")
        world.later(seconds=20)
    assert len(await world.seals()) == 12
    rare = TraceQuery(project_id="lab", names=("createImage",))
    assert await exported(world, rare) == ([3, 10], [3, 10])


async def test_large_traces_are_read_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LENGTH", 5000)
    sizes = [10, 3000, 1500, 9000, 10, 10, 2000, 6000]
    for size in sizes:
        await world.call(details={"local_path": "x" * size})
    query, token = TraceQuery(project_id="lab"), ""
    pages: list[list[int]] = []
    while not pages or token:
        found, token = await world.traces.list(query, 1000, token)
        pages.append([trace.sequence for trace in found])
    assert pages == [[8], [7, 6, 5], [4], [3, 2, 1]]
    pieces = [len(piece.traces) async for piece in world.traces.export(query, 0)]
    assert pieces == [3, 1, 3, 1]
    assert (await exported(world, query))[0] == list(range(1, 9))
    assert (await world.verify()).traces_checked == 8
    page, token = await world.traces.list(query, 2, "")
    assert ([trace.sequence for trace in page], bool(token)) == ([8], True)


async def test_an_export_by_time_leaves_out_nothing_though_the_clock_was_set_back(world: World) -> None:
    for seconds in (0, 10, 3, 4, 11):
        world.now = at(seconds)
        await world.call()
    assert (await exported(world, TraceQuery(project_id="lab", from_time=at(4))))[0] == [2, 4, 5]
    assert (await exported(world, TraceQuery(project_id="lab", to_time=at(4))))[0] == [1, 3]


async def test_a_chain_in_a_database_is_checked_in_pieces(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 4)
    await filled(world, 10)
    await world.upkeep.seal()
    check = await world.verify()
    assert (check.problems, check.traces_checked, check.sealed_sequence) == ([], 10, 10)
    await world.tamper("UPDATE trace SET caller_id = 'bob' WHERE sequence = 7")
    assert (await world.verify()).problems == ["trace 7 was altered: its hash is not that of its content"]


async def test_a_chain_that_never_began_is_intact(world: World) -> None:
    check = await world.verify("nobody")
    assert (check.is_intact, check.traces_checked, check.last_sequence) == (True, 0, 0)


TAMPERING = {
    "altered": ["UPDATE trace SET details = '{}' WHERE sequence = 3"],
    "removed in the middle": ["DELETE FROM trace WHERE sequence = 3"],
    "reordered": [
        "UPDATE trace SET sequence = 100 WHERE sequence = 3",
        "UPDATE trace SET sequence = 3 WHERE sequence = 4",
        "UPDATE trace SET sequence = 4 WHERE sequence = 100",
    ],
    "cut off at the end": ["DELETE FROM trace WHERE sequence > 4"],
    "cut off with the head": [
        "DELETE FROM trace WHERE sequence > 4",
        "UPDATE trace_chain SET sequence = 4, hash = (SELECT hash FROM trace WHERE sequence = 4)",
    ],
    "cut off at the beginning, at a seal": [
        "DELETE FROM trace WHERE sequence <= 1",
    ],
    "cut off at the beginning, elsewhere": ["DELETE FROM trace WHERE sequence <= 2"],
    "added at the end": ["UPDATE trace_chain SET sequence = 5"],
    "head lost": ["DELETE FROM trace_chain"],
    "seal forged": ["UPDATE trace_seal SET mac = hash"],
    "seal of another chain": ["UPDATE trace_seal SET sequence = 2 WHERE sequence = 1"],
    "all but the head removed": ["DELETE FROM trace", "DELETE FROM trace_seal"],
}


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING.keys())
async def test_a_database_that_was_tampered_with_is_not_intact(world: World, statements: list[str]) -> None:
    await filled(world)
    await world.upkeep.seal()
    assert (await world.verify()).is_intact
    await world.tamper(*statements)
    assert not (await world.verify()).is_intact


async def test_a_chain_written_anew_from_a_trace_on_is_betrayed_by_its_seal(world: World) -> None:
    await filled(world)
    await world.upkeep.seal()
    written = await world.written()
    forged = rechained([replace(written[1], caller_id="bob"), *written[2:]], written[0].hash, first=2)
    changes = [
        update(trace_table)
        .where(trace_table.c.sequence == trace.sequence)
        .values(caller_id=trace.caller_id, previous_hash=trace.previous_hash, hash=trace.hash)
        for trace in forged
    ]
    head = update(trace_chain).values(hash=forged[-1].hash)
    await world.tamper(*changes, head)
    problem = (await world.verify()).problems[0]
    assert problem.startswith("trace 6 is not what was sealed")


async def test_seals_that_were_removed_are_missed_after_a_while(world: World) -> None:
    await filled(world)
    await world.upkeep.seal()
    await world.tamper("DELETE FROM trace_seal")
    assert (await world.verify()).is_intact  # as it would be a moment after the calls
    world.later(minutes=20)
    (problem,) = (await world.verify()).problems
    assert problem.startswith("trace 1 and later ones bear no seal")


async def test_traces_that_are_removed_while_a_chain_is_checked_are_no_problem(
    new_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 2)
    world: World = await new_world(retention=timedelta(days=1))
    await filled(world)
    await world.upkeep.seal()
    world.later(days=9)
    removed = []

    async def check_slowly(check: Callable[..., None], *pieces: object) -> None:
        check(*pieces)
        removed.append(await world.upkeep.remove_old(world.now))

    monkeypatch.setattr(reading, "run_blocking", check_slowly)
    check = await world.verify()
    assert removed[0] == 6  # while two traces of six had been looked at
    assert (check.problems, check.first_sequence) == ([], 7)


def test_a_time_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="before from_time"):
        reading.require_order(TraceQuery(project_id="lab", from_time=at(1), to_time=at(0)))


@pytest.mark.parametrize(("given", "project"), [("", "default"), ("lab", "lab"), ("@service", "@service")])
def test_the_chain_of_what_belongs_to_no_project_can_be_asked_for(given: str, project: str) -> None:
    assert reading.trace_project(given) == project


@pytest.mark.parametrize("given", ["@", "*", "@service2", "a b", "x" * 65])
def test_what_can_be_no_project_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest):
        reading.trace_project(given)


def test_the_first_trace_follows_from_nothing() -> None:
    assert a_trace().chained(1, GENESIS).previous_hash == "0" * 64


async def test_traces_of_many_chains_are_found_in_an_index_by_statements_of_any_sqlite(
    sqlite_database: Database,
) -> None:
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        sent.append((statement, parameters))

    places = {f"lab-{number}": rows.ChainEnd(7, "") for number in range(500)}
    async with sqlite_database.reading() as c:
        event.listen(c.engine.sync_engine, "before_cursor_execute", note)
        try:
            await rows.hashes_at(c, places)
        finally:
            event.remove(c.engine.sync_engine, "before_cursor_execute", note)
        asked = [each for each in sent if each[0].startswith("SELECT")]
        assert {value for _, parameters in asked for value in parameters} == {*places, 7}
        assert max(len(parameters) for _, parameters in asked) <= MAX_VARIABLES
        for statement, parameters in asked:
            plan = await c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            assert not [row for row in plan if row._mapping["detail"].startswith("SCAN")]


async def test_the_hashes_of_many_chains(world: World) -> None:
    for number in range(rows.PLACES_AT_ONCE + 2):
        await world.call(project_id=f"lab-{number:03}")
    async with world.database.reading() as c:
        ends = await rows.chain_ends(c, "", 1000)
        others = {project_id: end._replace(sequence=9) for project_id, end in list(ends.items())[:3]}
        found = await rows.hashes_at(c, ends | others)
    assert found == {key: end.hash for key, end in ends.items() if key not in others}
