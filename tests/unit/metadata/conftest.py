"""A migrated, empty database for every test: SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from imsd.metadata.database import Database, open_database
from imsd.metadata.tables import metadata
from tests.unit.metadata.postgresql_server import find_programs, run_server


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="imsd-postgresql-"))
    try:
        with run_server(find_programs(), folder) as url:
            yield url
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/imsd.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        if database_url.startswith("postgresql"):  # one database for all tests
            tables = ", ".join(metadata.tables)
            async with database.transaction() as c:
                await c.execute(text(f"TRUNCATE {tables}"))
        yield database


@pytest.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    async with open_database(sqlite_url) as database:
        yield database
