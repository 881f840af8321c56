"""A database that crashes, is full, locked, or not there."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from imsd.contract import FailedPrecondition, LimitExceeded, Unavailable
from imsd.metadata import engine
from imsd.metadata.database import Database, open_database
from tests.unit.metadata.database_rows import run_write, seen, write

Write = Callable[[Database, int], Awaitable[None]]

CRASH = """
import asyncio, os, sys
from sqlalchemy import text
from imsd.metadata import engine
from imsd.metadata.database import open_database

async def main():
    async with open_database(sys.argv[1]) as database:
        put = "INSERT INTO request VALUES ('lab', '{}', 'f', 'x', '2026-01-01 00:00:00.000000')"
        async with database.transaction() as c:
            await c.execute(text(put.format("committed")))
        async with database.transaction() as c:
            await c.execute(text(put.format("open")))
            os._exit(9)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_committed_and_leaves_nothing_open(sqlite_url: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    killed = subprocess.run(  # noqa: ASYNC221 - nothing else runs
        [sys.executable, "-c", CRASH, sqlite_url], env=environment, check=False
    )
    assert killed.returncode == 9
    async with open_database(sqlite_url) as database:
        assert await seen(database) == ["committed"]
        await write(database, 1)


async def test_a_commit_survives_a_power_cut(sqlite_database: Database) -> None:
    async with sqlite_database.transaction() as c:
        assert (await c.execute(text("PRAGMA synchronous"))).scalar() == 2  # FULL
        assert (await c.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await c.execute(text("PRAGMA foreign_keys"))).scalar() == 1


@pytest.mark.parametrize("write", [write, run_write])
async def test_a_file_locked_by_another_program_is_unavailable(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 20)
    async with open_database(sqlite_url) as database:
        other = sqlite3.connect(tmp_path / "imsd.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            await write(database, 1)
        assert caught.value.hint
        other.rollback()
        other.close()
        await write(database, 2)
        assert await seen(database) == ["r000002"]


async def test_a_full_disk_is_told_as_such(sqlite_database: Database) -> None:
    async with sqlite_database.transaction() as c:
        pages = (await c.execute(text("PRAGMA page_count"))).scalar()
        await c.execute(text(f"PRAGMA max_page_count={pages}"))

    async def write_on() -> None:
        for number in range(1000):
            await write(sqlite_database, number)

    with pytest.raises(LimitExceeded) as caught:
        await write_on()
    assert caught.value.reason == "CAPACITY_EXHAUSTED"
    assert await seen(sqlite_database)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite:////tmp/x.db",
        "mysql://root:secret@localhost/x",
        "postgresql://ims@localhost/x",
        "nonsense",
        "",
    ],
)
async def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        async with open_database(url):
            pass
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert "sqlite+aiosqlite" in caught.value.hint
    assert "secret" not in caught.value.message


async def test_a_missing_directory_is_named_as_the_fault(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be opened") as caught:
        async with open_database(f"sqlite+aiosqlite:///{tmp_path}/missing/imsd.db"):
            pass
    assert "directory" in caught.value.hint


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="out of reach"):
        async with open_database(f"postgresql+asyncpg://ims@/ims?host={tmp_path}"):
            pass
