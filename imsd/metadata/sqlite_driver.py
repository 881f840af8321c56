"""aiosqlite with one thread switch a statement instead of four.

SQLAlchemy asks for a cursor, executes, fetches and closes, and aiosqlite goes to its thread for each of
them: a hundred microseconds every time, most of what a look-up of 256 digests cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from sqlite3 import Cursor as SqliteCursor
from sqlite3 import connect
from typing import Any, Self

import aiosqlite


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
    def cursor(self) -> QuickCursor:  # type: ignore[override]
        return QuickCursor(self)

    async def call(self, function: Any, *args: Any) -> Any:
        """Run ``function`` in the connection's thread."""
        return await self._execute(function, *args)  # type: ignore[no-untyped-call]

    @property
    def raw(self) -> SqliteConnection:
        return self._conn

    async def close(self) -> None:
        """End the thread, too."""
        await super().close()
        self._thread.join()  # it has only its last line to run


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
