from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from imsd.core.job_run import JobRun
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import Uploads
from imsd.metadata.database import Database, open_database
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.core.dispatcher_world import Service


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as opened:
        yield opened


@pytest.fixture
async def runtime(database: Database) -> AsyncIterator[Runtime]:
    async with open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime:
        yield runtime


@pytest.fixture
def uploads(runtime: Runtime) -> Uploads:
    return Uploads(runtime, Sweeper(runtime))


@pytest.fixture
async def serve(database: Database) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    started: list[Service] = []

    async def start(work: Callable[[JobRun], Awaitable[None]], slots: int = 1) -> Service:
        service = Service(database, work, slots)
        started.append(service)
        await service.dispatcher.start()
        return service

    yield start
    for service in started:
        await service.dispatcher.stop(0)
        service.runtime.pool.close()
