"""Recorders on an empty database, SQLite and PostgreSQL; several daemons can share it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from imsd.metadata.database import Database, open_database
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.metadata.conftest import (  # noqa: F401  # fixtures
    database,
    database_url,
    postgresql_url,
    sqlite_database,
    sqlite_url,
)
from tests.unit.traces.trace_world import World


@pytest.fixture
async def new_world(database: Database, database_url: str) -> AsyncIterator[Callable[..., object]]:  # noqa: F811
    """Start a daemon's traces on the database; each on a connection of its own."""
    async with AsyncExitStack() as stack:

        async def start(**options: object) -> World:
            opened = await stack.enter_async_context(open_database(database_url))
            runtime = await stack.enter_async_context(open_runtime(opened, pool_of(**{STORE: MemoryStore()})))
            return World(runtime, **options)  # type: ignore[arg-type]

        yield start


@pytest.fixture
async def world(new_world: Callable[..., object]) -> World:
    made: World = await new_world()  # type: ignore[misc]
    return made
