"""What lies in the buckets of projects: whose it is, how often it counts, and a bucket that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from imsd.contract import BlobStore, StoredBlob, Unavailable, blob_id
from imsd.core.bucket_sections import BucketSection
from imsd.core.bucket_usage import LISTS_AT_ONCE, BucketUsage
from imsd.core.buckets import Buckets
from imsd.core.runtime import Runtime
from imsd.core.usage import Usage
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import buckets_of

NINE = datetime(2026, 5, 1, 9, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NINE + timedelta(minutes=20)

    def __call__(self) -> datetime:
        return self.now


class Silent(MemoryStore):
    """One that tells its first object, and then that it is away."""

    is_away = True
    lists = 0

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        self.lists += 1
        async for stored in super().list(prefix, after):
            yield stored
            if self.is_away:
                raise Unavailable("away")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(runtime: Runtime, clock: Clock) -> Runtime:
    return replace(runtime, clock=clock)


async def put(store: BlobStore, name: str, size: int) -> None:
    async with store.begin(blob_id(name)) as ingest:
        await ingest.write([bytes(size)])
        await ingest.commit()


def buckets(own: dict[str, tuple[str, ...]], **stores: BlobStore) -> Buckets:
    said = {name: BucketSection("memory", projects) for name, projects in own.items()}
    return buckets_of("local", said, **stores)


async def recorded(world: Runtime) -> dict[tuple[int, str], int]:
    """Bytes by hour and project."""
    service = Usage(world, timedelta(days=9))
    query = service.query("*", NINE, NINE + timedelta(days=1))
    found, _ = await service.list(query, 1000, "")
    assert {each.resource for each in found} <= {"bucket_byte_hours"}
    return {(each.hour.hour, each.project_id): each.quantity for each in found}


async def test_billing_of_private_image_operations_the_storage_of_buckets(
    world: Runtime, clock: Clock
) -> None:
    """Seed, chapter 7: the space for uploaded and exported files; who put them there makes no difference."""
    stores = {name: MemoryStore() for name in ("files", "exports", "shops", "all", "both", "nobodys")}
    own = {"files": ("web",), "exports": ("web", "web"), "shops": ("shop",), "all": ("*",)}
    service = BucketUsage(world, buckets(own | {"both": ("web", "shop"), "nobodys": ()}, **stores))
    for store in stores.values():
        await put(store, "a/disk.qcow2", 1000)
    await put(stores["exports"], "disk.vhd", 50)
    for _ in range(2):
        await service.look()
    assert await recorded(world) == {(9, "web"): 2050, (9, "shop"): 1000}
    await stores["exports"].delete(blob_id("disk.vhd"))
    await stores["shops"].delete(blob_id("a/disk.qcow2"))
    clock.now += timedelta(hours=1)
    await service.look()
    assert await recorded(world) == {(9, "web"): 2050, (9, "shop"): 1000, (10, "web"): 2000}


async def test_an_hour_has_the_most_that_one_of_several_daemons_saw(world: Runtime) -> None:
    store = MemoryStore()
    await put(store, "disk.vhd", 1000)
    await BucketUsage(world, buckets({"main": ("web",)}, main=store)).look()
    await store.delete(blob_id("disk.vhd"))
    await BucketUsage(world, buckets({"main": ("web",)}, main=store)).look()
    assert await recorded(world) == {(9, "web"): 1000}


async def test_a_bucket_that_does_not_answer_is_asked_again_and_keeps_nothing_from_others(
    world: Runtime, clock: Clock
) -> None:
    silent, other = Silent(), MemoryStore()
    for store in (silent, other):
        await put(store, "one", 10)
        await put(store, "two", 10)
    service = BucketUsage(world, buckets({"a": ("web",), "b": ("web",)}, a=silent, b=other))
    await service.look()
    assert await recorded(world) == {(9, "web"): 20}
    silent.is_away = False
    for _ in range(3):
        await service.look()
    assert await recorded(world) == {(9, "web"): 40}
    assert silent.lists == 2, "what was seen in an hour is not listed again"
    silent.is_away = True
    clock.now += timedelta(hours=1)
    await service.look()
    assert (await recorded(world))[(10, "web")] == 20


class Broken(MemoryStore):
    """One whose plugin raises what is no error of imsd."""

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        raise KeyError("Contents")
        yield


class Slow(MemoryStore):
    """One whose list goes on when the test says so."""

    def __init__(self, running: list[str], name: str) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self._running, self._name = running, name

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        self._running.append(self._name)
        await self.go_on.wait()
        async for stored in super().list(prefix, after):
            yield stored


async def test_a_bucket_whose_plugin_fails_keeps_nothing_from_others(world: Runtime) -> None:
    good = MemoryStore()
    await put(good, "one", 10)
    found = buckets({"a": ("lab",), "b": ("web",), "c": ("web",)}, a=Broken(), b=Broken(), c=good)
    await BucketUsage(world, found).look()
    assert await recorded(world) == {(9, "web"): 10}


async def test_a_project_does_not_wait_for_the_slow_bucket_of_another(world: Runtime, clock: Clock) -> None:
    running: list[str] = []
    slow, quick = Slow(running, "slow"), MemoryStore()
    for store in (slow, quick):
        await put(store, "one", 10)
    service = BucketUsage(world, buckets({"a": ("lab",), "b": ("web",)}, a=slow, b=quick))
    look = asyncio.create_task(service.look())
    async with asyncio.timeout(20):
        while not await recorded(world):
            await asyncio.sleep(0.01)
        assert (running, await recorded(world)) == (["slow"], {(9, "web"): 10})
        clock.now += timedelta(hours=1)
        slow.go_on.set()
        await look
    assert await recorded(world) == {(9, "web"): 10, (10, "lab"): 10}


async def test_some_buckets_are_listed_at_once_and_not_all(world: Runtime) -> None:
    running: list[str] = []
    stores = {f"b{number}": Slow(running, f"b{number}") for number in range(LISTS_AT_ONCE + 2)}
    service = BucketUsage(world, buckets(dict.fromkeys(stores, ("web",)), **stores))
    look = asyncio.create_task(service.look())
    async with asyncio.timeout(20):
        while len(running) < LISTS_AT_ONCE:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(running) == LISTS_AT_ONCE
        for store in stores.values():
            store.go_on.set()
        await look
    assert sorted(running) == sorted(stores)
