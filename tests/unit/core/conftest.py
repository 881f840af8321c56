from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imsd.metadata.database import Database, open_database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as opened:
        yield opened
