from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from imsd.core.job_run import JobRun
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import Uploads
from imsd.core.url_client import UrlClient, new_url_client
from imsd.core.url_policy import UrlPolicy
from imsd.core.url_settings import UrlLimits, UrlSettings, trusted_authorities
from imsd.metadata.database import Database, open_database
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.core.dispatcher_world import Service
from tests.unit.core.url_world import LOOPBACK, QUICK, OpenClient
from tests.web_server import WebServer


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


@pytest.fixture
async def open_client(web: WebServer, certificate: Path) -> AsyncIterator[OpenClient]:
    """Make a client with limits and a policy of the test's own; by default the server may be asked."""
    async with AsyncExitStack() as stack:

        async def open_(
            limits: UrlLimits = QUICK, ca_file: Path | None = certificate, **policy: Any
        ) -> UrlClient:
            policy = {"allowed_networks": LOOPBACK, "ports": [web.port]} | policy
            settings = UrlSettings(UrlPolicy(**policy), limits, trusted_authorities(ca_file))
            client = new_url_client(settings)
            stack.push_async_callback(client.close)
            return client

        yield open_


@pytest.fixture
async def client(open_client: OpenClient) -> UrlClient:
    made: UrlClient = await open_client()
    return made
