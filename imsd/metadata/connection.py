"""A connection whose statements always run to their end, and the errors of the database in our words.

When a task is cancelled in the middle of a statement, SQLAlchemy throws the connection away while the
statement still runs in its thread: an open transaction would outlive its block. So every call runs as a
task of its own; the caller's cancellation waits for it and is raised afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from imsd.contract import FailedPrecondition, ImsError, LimitExceeded, Unavailable, wait_through

from .sqlite_driver import QuickConnection

T = TypeVar("T")


class UnbrokenConnection(AsyncConnection):
    """An `AsyncConnection`; a cancelled call has ended, for better or worse, when it raises.

    Raises Unavailable when the database is locked or out of reach, LimitExceeded when its disk is full,
    FailedPrecondition when its file cannot be written or is no database.
    """

    __slots__ = ()

    async def start(self, is_ctxmanager: bool = False) -> AsyncConnection:
        return await to_its_end(super().start(is_ctxmanager))

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        return await to_its_end(super().execute(*args, **kwargs))

    async def exec_driver_sql(self, *args: Any, **kwargs: Any) -> Any:
        return await to_its_end(super().exec_driver_sql(*args, **kwargs))

    async def run_sync(self, *args: Any, **kwargs: Any) -> Any:
        return await to_its_end(super().run_sync(*args, **kwargs))

    async def commit(self) -> None:
        await to_its_end(super().commit())

    async def rollback(self) -> None:
        await to_its_end(super().rollback())

    async def close(self) -> None:
        if self.sync_connection is not None:  # else it was never started
            await to_its_end(super().close())


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection of ``engine``; what is not committed in the block is rolled back."""
    connection = UnbrokenConnection(engine)
    try:
        await connection.start()
        yield connection
    finally:
        await connection.close()


async def thread_of(engine: AsyncEngine) -> QuickConnection | None:
    """The one connection of ``engine`` as SQLite's driver has it; the pool keeps it open. None for others."""
    async with connected(engine) as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        return driver if isinstance(driver, QuickConnection) else None


async def dispose(engine: AsyncEngine) -> None:
    await to_its_end(engine.dispose())


async def to_its_end(work: Awaitable[T]) -> T:
    """Await ``work`` however often this task is cancelled meanwhile; then raise the cancellation."""
    task = asyncio.ensure_future(work)
    if cancelled := await wait_through([task]):
        if not task.cancelled():
            task.exception()  # retrieved here, or asyncio logs it as lost
        raise cancelled
    with in_our_words():
        return task.result()


@contextmanager
def in_our_words() -> Iterator[None]:
    """Raises what the block raises; for what a caller can understand, an `ImsError`."""
    try:
        yield
    except exc.DBAPIError as error:
        if (ours := _translated(error)) is None:
            raise
        raise ours from error
    except OSError as error:  # asyncpg, when nobody listens
        raise Unavailable(
            f"the database is out of reach: {error}", hint="look whether it runs and its address is right"
        ) from error


def _translated(error: exc.DBAPIError) -> ImsError | None:
    """What a caller can understand; None for a defect of ours, such as a broken constraint."""
    text = str(error.orig)
    if "is full" in text or "DiskFull" in text:
        return LimitExceeded(
            "the disk of the database is full",
            reason="CAPACITY_EXHAUSTED",
            hint="free some space there; nothing was changed",
        )
    if "not a database" in text or "malformed" in text:
        return FailedPrecondition(f"the database cannot be read: {text}", hint="restore it from a backup")
    if "unable to open" in text or "readonly" in text:
        return FailedPrecondition(
            f"the database cannot be opened for writing: {text}",
            reason="INVALID_CONFIGURATION",
            hint="look whether its directory exists and belongs to the user that runs imsd",
        )
    if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError):
        return Unavailable(f"the database does not answer: {text}", hint="try again in a moment")
    return None
