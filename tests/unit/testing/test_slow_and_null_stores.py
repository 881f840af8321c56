"""How long a slow store takes, what a null store keeps, how much a memory store takes."""

from __future__ import annotations

import pytest

from imsd.contract import ByteRange, LimitExceeded, blob_id
from imsd.testing.memory_store import MemoryStore
from imsd.testing.null_store import NullStore
from imsd.testing.slow_store import SlowStore

BLOB = blob_id("blob")


async def test_a_slow_store_waits_for_each_call_and_each_byte() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    store = SlowStore(MemoryStore(), delay_seconds=1.0, bytes_per_second=2.0, sleep=sleep)
    async with store.begin(BLOB) as ingest:
        await ingest.write([b"12", b"3456"])
        await ingest.commit()
    await store.read(BLOB, [ByteRange(0, 2), ByteRange(4, 2)])
    await store.stat(BLOB)
    await store.delete(BLOB)
    await store.usage()
    assert [stored async for stored in store.list()] == []
    assert waits == [1.0, 4.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0]


async def test_a_null_store_keeps_sizes_and_gives_zeros() -> None:
    store = NullStore()
    async with store.begin(BLOB) as ingest:
        await ingest.write([b"12", memoryview(b"3456")])
        assert (await ingest.commit()).size_bytes == 6
    assert await store.read(BLOB, [ByteRange(1, 3)]) == [bytes(3)]
    assert (await store.usage()).used_bytes == 6


async def test_a_memory_store_counts_open_ingests_and_frees_discarded_ones() -> None:
    store = MemoryStore(capacity_bytes=10)
    async with store.begin(BLOB) as first:
        await first.write([b"123456"])
        async with store.begin(blob_id("other")) as second:
            with pytest.raises(LimitExceeded) as caught:
                await second.write([b"12345"])
            assert caught.value.reason == "CAPACITY_EXHAUSTED"
        assert (await store.usage()).free_bytes == 4
    assert (await store.usage()).free_bytes == 10
