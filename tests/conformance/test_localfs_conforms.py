"""The suite on stores in a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.contract import BlobStore
from imsd.testing.blob_store_suite import BlobStoreSuite


class TestLocalStore(BlobStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        async with open_local_store(LocalStoreOptions(path=tmp_path / "store")) as store:
            yield store


class TestLocalStoreWithoutUnnamedFiles(BlobStoreSuite):
    """As on a file system that has no O_TMPFILE; few threads and open files, and no fsync."""

    @pytest.fixture
    async def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BlobStore]:
        monkeypatch.setattr("imsd_localfs.store.offers_unnamed_files", lambda root_fd: False)
        options = LocalStoreOptions(path=tmp_path / "store", fsync=False, threads=2, open_files=1)
        async with open_local_store(options) as store:
            yield store
        assert list((tmp_path / "store" / ".ingest").iterdir()) == []
