"""The suite on the stores and wrappers that imsd ships for tests."""

from __future__ import annotations

import pytest

from imsd.contract import BlobStore
from imsd.testing.blob_store_suite import BlobStoreSuite
from imsd.testing.faulty_store import FaultyStore
from imsd.testing.memory_store import MemoryStore
from imsd.testing.null_store import NullStore
from imsd.testing.slow_store import SlowStore


class TestMemoryStore(BlobStoreSuite):
    @pytest.fixture
    def store(self) -> BlobStore:
        return MemoryStore()


class TestMemoryStoreWithACapacity(BlobStoreSuite):
    @pytest.fixture
    def store(self) -> BlobStore:
        return MemoryStore(capacity_bytes=80 << 20)


class TestNullStore(BlobStoreSuite):
    @pytest.fixture
    def store(self) -> BlobStore:
        return NullStore()

    def kept(self, written: bytes) -> bytes:
        return bytes(len(written))


class TestFaultyStoreWithoutAPlan(BlobStoreSuite):
    @pytest.fixture
    def store(self) -> BlobStore:
        return FaultyStore(MemoryStore())


class TestSlowStore(BlobStoreSuite):
    @pytest.fixture
    def store(self) -> BlobStore:
        return SlowStore(MemoryStore(), delay_seconds=0.0001, bytes_per_second=1e15)
