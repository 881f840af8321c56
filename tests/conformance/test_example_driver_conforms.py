from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imsd.contract import BlobStore
from imsd.core.plugin_registry import load_plugins
from imsd.core.store_pool import open_store_pool
from imsd.testing.blob_store_suite import BlobStoreSuite
from tests.conformance import example_driver


class TestSqliteStore(BlobStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        registry = load_plugins(modules=[example_driver])
        section = {"driver": "sqlite", "path": str(tmp_path / "blobs.sqlite3")}
        async with open_store_pool(registry, {"main": section}, "main") as pool:
            yield pool.get("main")
