"""The readers of a database, and queries that run as a whole in a reader's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .connection import dispose, thread_of
from .engine import READERS
from .sqlite_driver import QuickConnection

P = ParamSpec("P")
T = TypeVar("T")


class Reader:
    """An engine of one connection."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._thread: QuickConnection | None = None

    async def thread(self) -> QuickConnection | None:
        """The connection as SQLite's driver has it; None for another database."""
        if self._thread is None and self.engine.dialect.name == "sqlite":
            self._thread = await thread_of(self.engine)
        return self._thread


class Readers:
    """`READERS` of them; who finds none free waits in line."""

    def __init__(self, new_engine: Callable[[], AsyncEngine]) -> None:
        # The one that was used last is taken first: its cache is warm, and the others need not connect.
        self._free: asyncio.LifoQueue[Reader] = asyncio.LifoQueue()
        self._engines = [new_engine() for _ in range(READERS)]
        for engine in self._engines:
            self._free.put_nowait(Reader(engine))

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Reader]:
        reader = await self._free.get()
        try:
            yield reader
        finally:
            self._free.put_nowait(reader)

    async def dispose(self) -> None:
        for engine in self._engines:
            await dispose(engine)


def answer_of(
    query: Callable[Concatenate[AsyncConnection, P], Coroutine[Any, Any, T]],
    connection: Connection,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """The answer of a query function, at once: where it runs, nothing has to be waited for."""
    running = query(cast(AsyncConnection, _AtOnce(connection)), *args, **kwargs)
    try:
        running.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    finally:
        running.close()
    raise RuntimeError(f"{query} awaits something else than its connection")


class _AtOnce:
    """A connection as query functions know it, in the thread it belongs to."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, *args: Any, **kwargs: Any) -> CursorResult[Any]:
        return self._connection.execute(*args, **kwargs)
