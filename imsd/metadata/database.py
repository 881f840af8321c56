"""The database: one writer, several readers, transactions that never stay open.

Nobody else's statement falls into a transaction, because the writer's connection is behind a lock; and a
cancelled task leaves none behind, because commit and rollback are awaited to their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from imsd.contract import FailedPrecondition

from . import schema
from .connection import UnbrokenConnection, to_its_end
from .engine import READERS, reading_engine, writing_engine
from .sqlite_driver import QuickConnection

P = ParamSpec("P")
T = TypeVar("T")

DRIVERS = ("sqlite+aiosqlite", "postgresql+asyncpg")


class Database:
    """Made by `open_database`."""

    def __init__(
        self, writer: AsyncEngine, readers: AsyncEngine, thread: QuickConnection | None = None
    ) -> None:
        """``thread``: the one connection of ``writer``, if that is SQLite's."""
        self._writer = writer
        self._readers = readers
        self._thread = thread
        self._writing = asyncio.Lock()
        self._read_slots = asyncio.Semaphore(READERS)

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
        async with self._writing, _connected(self._writer) as connection:
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

        async with self._writing:
            if self._thread is not None:
                return await to_its_end(self._thread.transact(call))
            async with _connected(self._writer) as connection:
                result: T = await connection.run_sync(call)
                await connection.commit()
                return result

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A snapshot, taken by the first statement; writing raises. Never waits for the writer.

        At most `READERS` at once, so never enter one inside another.
        """
        async with self._read_slots, _connected(self._readers) as connection:
            yield connection


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open ``sqlite+aiosqlite:///PATH`` or ``postgresql+asyncpg://…`` and bring its schema up to date.

    Raises FailedPrecondition for an address that is not one of these (INVALID_CONFIGURATION), a database
    of another program or of a newer imsd; Unavailable when it does not answer.
    """
    parsed = _parse(url)
    async with AsyncExitStack() as undo:
        writer = writing_engine(parsed)
        undo.push_async_callback(_dispose, writer)
        async with _connected(writer) as connection:
            is_current = await schema.check(connection)
        if not is_current:
            await schema.upgrade(parsed)
        readers = reading_engine(parsed)
        undo.push_async_callback(_dispose, readers)
        yield Database(writer, readers, await _thread_of(writer))


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection of ``engine``; what is not committed in the block is rolled back."""
    connection = UnbrokenConnection(engine)
    try:
        await connection.start()
        yield connection
    finally:
        await connection.close()


async def _thread_of(writer: AsyncEngine) -> QuickConnection | None:
    """SQLite's connection as its driver has it; the pool of ``writer`` keeps it open."""
    async with _connected(writer) as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        return driver if isinstance(driver, QuickConnection) else None


async def _dispose(engine: AsyncEngine) -> None:
    await to_its_end(engine.dispose())


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
