from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition, ImsError
from imsd.metadata.database import Database, open_database
from imsd.metadata.tables import request
from tests.unit.metadata.database_rows import insert_rows, row, seen, write


async def test_what_a_block_wrote_is_there_after_it(database: Database) -> None:
    await write(database, 1)
    assert await seen(database) == ["r000001"]


async def test_a_block_that_raises_wrote_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as c:
            await c.execute(insert(request).values(row(1)))
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await fail()
    await write(database, 2)
    assert await seen(database) == ["r000002"]


async def test_an_error_says_nothing_of_what_was_to_be_kept(database: Database) -> None:
    """It is logged, and may be of bytes of a file, or of a token."""
    await write(database, 1)
    with pytest.raises(DBAPIError) as failed:
        async with database.transaction() as c:
            await c.execute(insert(request).values(row(1) | {"fingerprint": "hush"}))
    assert "hush" not in f"{failed.value} {failed.value!r}"


async def test_a_function_that_is_run_is_one_transaction(database: Database) -> None:
    assert await database.run(insert_rows, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await database.run(insert_rows, 3, 4, then=ZeroDivisionError)
    await write(database, 5)
    assert await database.run(insert_rows, 6) == 1
    assert await seen(database) == ["r000001", "r000002", "r000005", "r000006"]


async def test_blocks_and_functions_wait_for_each_other(database: Database) -> None:
    async def work(number: int) -> None:
        if number % 2:
            await database.run(insert_rows, 2 * number, 2 * number + 1)
        else:
            async with database.transaction() as c:
                await c.execute(insert(request).values(row(2 * number)))
                await asyncio.sleep(0)
                await c.execute(insert(request).values(row(2 * number + 1)))

    await asyncio.gather(*[work(number) for number in range(20)])
    assert await seen(database) == [f"r{number:06}" for number in range(40)]


async def test_a_function_cancelled_at_any_moment_leaves_no_open_transaction(database: Database) -> None:
    for steps in range(30):
        task = asyncio.create_task(database.run(insert_rows, 2 * steps, 2 * steps + 1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(write(database, 10**5 + steps), 5)
    whole = [int(name[1:]) // 2 for name in await seen(database) if name < "r100000"]
    assert all(whole.count(number) == 2 for number in set(whole))


async def test_when_a_cancelled_function_ends_its_thread_has_left_it(sqlite_database: Database) -> None:
    is_running, is_over = threading.Event(), threading.Event()

    def slow(c: Connection) -> None:
        is_running.set()
        c.execute(text(SLOW))
        is_over.set()

    task = asyncio.create_task(sqlite_database.run(slow))
    assert await asyncio.to_thread(is_running.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_over.is_set()


async def names_of(c: AsyncConnection, *, wait: bool = False) -> list[str]:
    if wait:
        await asyncio.sleep(0)
    return list((await c.execute(select(request.c.request_id).order_by(request.c.request_id))).scalars())


async def write_as_a_query(c: AsyncConnection) -> None:
    await c.execute(insert(request).values(row(1)))


async def test_a_query_is_read_in_one_go(database: Database) -> None:
    await write(database, 1)
    async with database.transaction() as c:
        await c.execute(insert(request).values(row(2)))
        found = await asyncio.wait_for(asyncio.gather(*[database.read(names_of) for _ in range(9)]), 5)
    assert found == [["r000001"]] * 9
    assert await database.read(names_of) == await seen(database) == ["r000001", "r000002"]


async def test_a_query_cannot_write(database: Database) -> None:
    with pytest.raises((DBAPIError, ImsError)):
        await database.read(write_as_a_query)
    assert await database.read(names_of) == []


async def test_a_query_that_waits_for_something_else_is_a_defect(sqlite_database: Database) -> None:
    with pytest.raises(RuntimeError, match="awaits something else"):
        await sqlite_database.read(names_of, wait=True)
    assert await sqlite_database.read(names_of) == []


async def test_a_cancelled_query_gives_its_reader_back(sqlite_database: Database) -> None:
    async def slow(c: AsyncConnection) -> None:
        await c.execute(text(SLOW))

    for steps in range(12):
        tasks = [asyncio.create_task(sqlite_database.read(slow)) for _ in range(6)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.wait_for(sqlite_database.read(names_of), 5) == []


async def test_a_reader_cannot_write(database: Database) -> None:
    async with database.reading() as c:
        with pytest.raises((DBAPIError, ImsError)):
            await c.execute(insert(request).values(row(1)))
    assert await seen(database) == []


async def test_a_reader_sees_one_snapshot_while_a_writer_commits(database: Database) -> None:
    await write(database, 1)
    count = text("SELECT count(*) FROM request")
    async with database.reading() as c:
        assert (await c.execute(count)).scalar() == 1
        await asyncio.wait_for(write(database, 2), 5)
        assert (await c.execute(count)).scalar() == 1
    assert len(await seen(database)) == 2


async def test_five_readers_go_on_while_a_transaction_is_open(database: Database) -> None:
    await write(database, 1)
    async with database.transaction() as c:
        await c.execute(insert(request).values(row(2)))
        found = await asyncio.wait_for(asyncio.gather(*[seen(database) for _ in range(5)]), 5)
    assert found == [["r000001"]] * 5


async def test_fifty_tasks_write_without_losing_a_row(database: Database) -> None:
    async def work(number: int) -> None:
        await write(database, number)
        if number % 3 == 0:
            with pytest.raises(ZeroDivisionError):
                await write_and_fail(1000 + number)

    async def write_and_fail(number: int) -> None:
        async with database.transaction() as c:
            await c.execute(insert(request).values(row(number)))
            raise ZeroDivisionError

    await asyncio.gather(*[work(number) for number in range(50)])
    assert await seen(database) == [f"r{number:06}" for number in range(50)]


async def test_writers_come_one_after_the_other(database: Database) -> None:
    inside = 0

    async def work(number: int) -> None:
        nonlocal inside
        async with database.transaction() as c:
            inside += 1
            assert inside == 1
            await c.execute(insert(request).values(row(number)))
            inside -= 1

    await asyncio.gather(*[work(number) for number in range(20)])
    assert len(await seen(database)) == 20


async def test_a_task_cancelled_at_any_moment_leaves_no_open_transaction(database: Database) -> None:
    """The whole block or nothing, and the next writer need not wait."""

    async def work(number: int) -> None:
        async with database.transaction() as c:
            for part in range(3):
                await c.execute(insert(request).values(row(3 * number + part)))

    await work(0)
    for steps in range(1, 60):
        task = asyncio.create_task(work(steps))
        for _ in range(steps):
            await asyncio.sleep(0)
        # Twice: the second one arrives while the first one's rollback runs.
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(write(database, 10**5 + steps), 5)
    whole = [int(name[1:]) // 3 for name in await seen(database) if name < "r100000"]
    assert all(whole.count(number) == 3 for number in set(whole))
    assert len([name for name in await seen(database) if name >= "r100000"]) == 59


SLOW = (
    "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
    " SELECT count(*) FROM n"
)


async def test_when_a_cancelled_transaction_ends_nothing_of_it_runs_any_more(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """However often it is cancelled while a slow statement runs in its thread."""

    async def work() -> None:
        async with sqlite_database.transaction() as c:
            await c.execute(insert(request).values(row(1)))
            is_writing.set()
            await c.execute(text(SLOW))

    other = sqlite3.connect(tmp_path / "imsd.db", isolation_level=None, timeout=0)
    for _ in range(3):
        is_writing = asyncio.Event()
        task = asyncio.create_task(work())
        await is_writing.wait()
        while not task.done():
            await asyncio.sleep(0.002)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.execute("BEGIN IMMEDIATE")  # the lock is free, without waiting for it
        other.rollback()
    other.close()
    await asyncio.wait_for(write(sqlite_database, 2), 5)
    assert await seen(sqlite_database) == ["r000002"]


async def test_a_cancelled_commit_is_whole_when_the_task_ends(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_committing = asyncio.Event()
    commit = AsyncConnection.commit

    async def slow_commit(connection: AsyncConnection) -> None:
        is_committing.set()
        await asyncio.sleep(0.05)
        await commit(connection)

    monkeypatch.setattr(AsyncConnection, "commit", slow_commit)
    task = asyncio.create_task(write(sqlite_database, 1))
    await is_committing.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await task
    other = sqlite3.connect(tmp_path / "imsd.db", timeout=0)
    assert other.execute("SELECT request_id FROM request").fetchall() == [("r000001",)]
    other.close()


async def test_a_timeout_inside_a_transaction_is_a_timeout(database: Database) -> None:
    async def work() -> None:
        async with database.transaction() as c:
            await c.execute(insert(request).values(row(1)))
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 0.05)
    assert await seen(database) == []


async def test_a_cancelled_reader_gives_its_place_back(database: Database) -> None:
    async def read_for_ever() -> None:
        async with database.reading() as c:
            await c.execute(select(request))
            await asyncio.sleep(60)

    for _ in range(3):
        tasks = [asyncio.create_task(read_for_ever()) for _ in range(8)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.wait_for(seen(database), 5) == []


async def test_threads_end_with_the_database(sqlite_url: str) -> None:
    before = set(threading.enumerate())
    async with open_database(sqlite_url) as database:
        await write(database, 1)
        await asyncio.gather(*[seen(database) for _ in range(5)])
        assert len(set(threading.enumerate()) - before) >= 2
    gc.collect()
    assert not set(threading.enumerate()) - before


async def test_threads_end_when_opening_fails(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    (tmp_path / "imsd.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        async with open_database(f"sqlite+aiosqlite:///{tmp_path}/imsd.db"):
            pass
    gc.collect()
    assert not set(threading.enumerate()) - before


async def test_the_write_ahead_log_stays_small(sqlite_database: Database, tmp_path: Path) -> None:
    for start in range(0, 60_000, 2000):
        rows = [row(number) for number in range(start, start + 2000)]
        async with sqlite_database.transaction() as c:
            await c.execute(insert(request), rows)
    assert (tmp_path / "imsd.db").stat().st_size > 4 << 20
    assert (tmp_path / "imsd.db-wal").stat().st_size <= 8 << 20


async def test_the_write_ahead_log_shrinks_after_a_long_reader(
    sqlite_database: Database, tmp_path: Path
) -> None:
    log = tmp_path / "imsd.db-wal"
    async with sqlite_database.reading() as c:
        await c.execute(select(request).limit(1))
        for start in range(0, 80_000, 2000):
            async with sqlite_database.transaction() as writing:
                await writing.execute(insert(request), [row(n) for n in range(start, start + 2000)])
        assert log.stat().st_size > 10 << 20
    for number in range(2):
        await write(sqlite_database, 10**6 - number - 1)
    assert log.stat().st_size <= 8 << 20


async def test_a_transaction_that_does_not_wait_for_the_disk_is_kept(database: Database) -> None:
    def work(c: Connection) -> None:
        c.execute(insert(request).values(row(1)))

    await database.run_unsynced(work)
    assert await seen(database) == ["r000001"]


@pytest.mark.parametrize("fails", [False, True])
async def test_after_it_transactions_wait_for_the_disk_as_before(database: Database, fails: bool) -> None:
    def setting(c: Connection) -> object:
        query = "PRAGMA synchronous" if c.dialect.name == "sqlite" else "SHOW synchronous_commit"
        return c.exec_driver_sql(query).scalar()

    def work(c: Connection) -> None:
        assert setting(c) in (1, "off")
        if fails:
            raise LookupError

    before = await database.run(setting)
    with pytest.raises(LookupError) if fails else nullcontext():
        await database.run_unsynced(work)
    assert await database.run(setting) == before
    assert before != 1
