"""The database: one writer, several readers, transactions that never stay open.

Nobody else's statement falls into a transaction, because the writer's connection is behind a lock; and a
cancelled task leaves none behind, because commit and rollback are awaited to their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from imsd.contract import FailedPrecondition

from . import schema
from .connection import connected, dispose, in_our_words, thread_of, to_its_end
from .engine import reading_engine, writing_engine
from .readers import Readers, answer_of
from .sqlite_driver import QuickConnection

P = ParamSpec("P")
T = TypeVar("T")

DRIVERS = ("sqlite+aiosqlite", "postgresql+asyncpg")


class Database:
    """Made by `open_database`."""

    def __init__(self, writer: AsyncEngine, readers: Readers, thread: QuickConnection | None = None) -> None:
        """``thread``: the one connection of ``writer``, if that is SQLite's."""
        self._writer = writer
        self._readers = readers
        self._thread = thread
        self._writing = asyncio.Lock()

    @property
    def is_embedded(self) -> bool:
        """Whether the database is a file of this process, which no other daemon uses."""
        return self._writer.dialect.name == "sqlite"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """The one writer: commits at the end of the block, rolls back when it raises.

        Blocks wait for each other in order of arrival; keep them short, and never enter one inside
        another. After a cancellation that hits the commit itself, the outcome is unknown to the caller:
        everything was written or nothing.
        """
        async with self._writing, connected(self._writer) as connection:
            yield connection
            await connection.commit()

    async def run(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`transaction`, of a function whose first argument is an ordinary, synchronous connection.

        For what is done often: SQLite runs it as a whole in its thread, one switch of threads instead of
        one a statement. ``work`` does no other I/O and touches nothing of the event loop. Raises what it
        raises, and then nothing of it is written.
        """

        def call(connection: Connection) -> T:
            return work(connection, *args, **kwargs)

        return await self._run(call, is_synced=True)

    async def run_unsynced(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`, but the commit does not wait for the disk.

        A crash of the daemon loses nothing of it. A power cut may, but then every later transaction is lost
        too: what this one announces is never there without it.
        """

        def call(connection: Connection) -> T:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            return work(connection, *args, **kwargs)

        return await self._run(call, is_synced=False)

    async def _run(self, call: Callable[[Connection], T], *, is_synced: bool) -> T:
        async with self._writing:
            if self._thread is not None:
                return await to_its_end(self._thread.transact(call, is_synced))
            async with connected(self._writer) as connection:
                result: T = await connection.run_sync(call)
                await connection.commit()
                return result

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A snapshot, taken by the first statement; writing raises. Never waits for the writer.

        At most `READERS` at once, so never enter one inside another.
        """
        async with self._readers.taken() as reader, connected(reader.engine) as connection:
            yield connection

    async def read(
        self,
        query: Callable[Concatenate[AsyncConnection, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """What ``query`` finds, in a snapshot of its own; as in `reading`, but in half the time.

        For what is asked often: SQLite runs the whole function in a reader's thread. ``query`` awaits only
        `execute` of its connection and touches nothing of the event loop.
        """
        async with self._readers.taken() as reader:
            if (thread := await reader.thread()) is not None:
                with in_our_words():
                    return await thread.snapshot(lambda c: answer_of(query, c, *args, **kwargs))
            async with connected(reader.engine) as connection:
                return await query(connection, *args, **kwargs)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open ``sqlite+aiosqlite:///PATH`` or ``postgresql+asyncpg://…`` and bring its schema up to date.

    Raises FailedPrecondition for an address that is not one of these (INVALID_CONFIGURATION), a database
    of another program or of a newer imsd; Unavailable when it does not answer.
    """
    parsed = _parse(url)
    async with AsyncExitStack() as undo:
        writer = writing_engine(parsed)
        undo.push_async_callback(dispose, writer)
        async with connected(writer) as connection:
            is_current = await schema.check(connection)
        if not is_current:
            await schema.upgrade(parsed)
        readers = Readers(lambda: reading_engine(parsed))
        undo.push_async_callback(readers.dispose)
        yield Database(writer, readers, await thread_of(writer))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    is_file = parsed is not None and parsed.database not in (None, "", ":memory:")
    if parsed is None or parsed.drivername not in DRIVERS or not is_file:
        raise FailedPrecondition(
            "the address of the database is not one imsd can use",
            reason="INVALID_CONFIGURATION",
            hint="write sqlite+aiosqlite:////absolute/path or postgresql+asyncpg://user@host/database",
            field="database_url",
        )
    return parsed
