"""The suite on stores at the other end of a wire: the contract holds there too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.contract import BlobStore
from imsd.testing.blob_servicer import BlobServicer
from imsd.testing.blob_store_suite import BlobStoreSuite
from imsd.testing.memory_store import MemoryStore
from imsd.testing.remote_store import open_remote_store
from imsd.testing.v1.blob_pb2_grpc import add_BlobServiceServicer_to_server


@asynccontextmanager
async def served(store: BlobStore, socket: Path) -> AsyncIterator[BlobStore]:
    """``store``, through a server on ``socket`` and a client."""
    servicer = BlobServicer(store)
    server = grpc.aio.server()
    add_BlobServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        async with open_remote_store(f"unix:{socket}") as remote:
            yield remote
    finally:
        await server.stop(grace=0)
        await servicer.settled()


class TestMemoryStoreOverGrpc(BlobStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        async with served(MemoryStore(), tmp_path / "s") as store:
            yield store


class TestLocalStoreOverGrpc(BlobStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        options = LocalStoreOptions(path=tmp_path / "store", fsync=False)
        async with open_local_store(options) as local, served(local, tmp_path / "s") as store:
            yield store
