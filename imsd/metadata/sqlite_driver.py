"""aiosqlite with one thread switch a statement instead of four, or one for a whole transaction.

SQLAlchemy asks for a cursor, executes, fetches and closes, and aiosqlite goes to its thread for each of
them: a hundred microseconds every time, and a millisecond while the processors are busy, most of what a
look-up of 256 digests cost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from sqlite3 import Cursor as SqliteCursor
from sqlite3 import connect
from typing import Any, Self, TypeVar

import aiosqlite
from sqlalchemy import Connection, StaticPool, create_engine, event

from imsd.contract import wait_through

T = TypeVar("T")

# Takes the write lock at once: a read lock that is upgraded later deadlocks.
BEGIN_WRITING = "BEGIN IMMEDIATE"
BEGIN_READING = "BEGIN"

# A commit waits until the write-ahead log is on the disk; or it does not, and its order is kept all the same.
SYNCED = "PRAGMA synchronous=FULL"
NOT_SYNCED = "PRAGMA synchronous=NORMAL"


async def connect_quickly(database: str | Path, **options: Any) -> QuickConnection:
    """What SQLAlchemy calls to connect (``async_creator`` of an engine)."""
    connection = QuickConnection(lambda: connect(database, **options), iter_chunk_size=64)
    connection._thread.daemon = True  # as SQLAlchemy does: a lost connection does not stop the exit
    try:
        await connection
    except BaseException:
        connection.stop()
        connection._thread.join()
        raise
    return connection


class QuickConnection(aiosqlite.Connection):
    _synchronous: Connection | None = None

    def cursor(self) -> QuickCursor:  # type: ignore[override]
        return QuickCursor(self)

    async def call(self, function: Any, *args: Any) -> Any:
        """Run ``function`` in the connection's thread."""
        return await self._execute(function, *args)  # type: ignore[no-untyped-call]

    async def transact(self, work: Callable[[Connection], T], is_synced: bool = True) -> T:
        """Call ``work`` in the connection's thread, inside a transaction; rolled back when it raises.

        There SQLAlchemy itself runs, on what aiosqlite has open. No other transaction is open.
        ``is_synced``: whether the commit waits for the disk; else it lasts once a later one has.
        """
        run = self._transact if is_synced else self._transact_unsynced
        result: T = await self.call(run, work, BEGIN_WRITING)
        return result

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        """As `transact`, to read: ``work`` waits for no writer. When it is cancelled, ``work`` has ended.

        What is asked most often awaits the thread itself, without a task in between.
        """
        try:
            result: T = await self._started(self._transact, work, BEGIN_READING)
            return result
        except asyncio.CancelledError:
            await wait_through([self._started(_nothing)])  # it comes after what runs
            raise

    def _started(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """As `call`, at once. Raises ValueError when the connection is closed."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._running:
            raise ValueError("Connection closed")
        self._tx.put_nowait((future, partial(function, *args)))
        return future

    def _transact(self, work: Callable[[Connection], T], begin: str) -> T:
        if self._synchronous is None:
            self._synchronous = _synchronous(self.raw, begin)
        with self._synchronous.begin():
            return work(self._synchronous)

    def _transact_unsynced(self, work: Callable[[Connection], T], begin: str) -> T:
        self.raw.execute(NOT_SYNCED)
        try:
            return self._transact(work, begin)
        finally:
            self.raw.execute(SYNCED)

    @property
    def raw(self) -> SqliteConnection:
        return self._conn

    async def close(self) -> None:
        """End the thread, too."""
        await super().close()
        self._thread.join()  # it has only its last line to run


def _synchronous(raw: SqliteConnection, begin: str) -> Connection:
    """SQLAlchemy on a connection that somebody else opened, set up and will close."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: raw,
        poolclass=StaticPool,
        pool_reset_on_return=None,
        json_deserializer=from_json,
    )

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine.connect()


def from_json(text: str) -> Any:
    """What SQLAlchemy wrote. A page of images has thousands of such columns, and most are empty."""
    if len(text) == 2:
        return [] if text == "[]" else {} if text == "{}" else json.loads(text)
    return _SCAN(text, 0)[0]


# `json.loads` takes twice the time, to look for spaces around the value.
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _nothing() -> None:
    pass


class QuickCursor:
    """One statement and its rows, which are fetched with it."""

    def __init__(self, connection: QuickConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Self:
        await self._connection.call(self._run, SqliteCursor.execute, sql, parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Self:
        await self._connection.call(self._run, SqliteCursor.executemany, sql, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []

    def _run(self, method: Any, sql: str, parameters: Any) -> None:
        cursor = self._connection.raw.cursor()
        try:
            method(cursor, sql, parameters)
            self.description, self.lastrowid = cursor.description, cursor.lastrowid
            if cursor.description is not None:
                self._rows = cursor.fetchall()
            self.rowcount = cursor.rowcount
        finally:
            cursor.close()
