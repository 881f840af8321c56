"""Opening the configured stores: states, order, and what stops the start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from imsd.contract import BlobStore, InvalidRequest, StoreUsage, Unavailable, blob_id, run_blocking
from imsd.core import opened_stores
from imsd.core.driver_list import DriverList
from imsd.core.keys.key_pool import KeyPool
from imsd.core.opened_stores import DriverState, DriverStatus
from imsd.core.plugin_registry import PluginRegistry, load_plugins
from imsd.core.store_pool import open_store_pool
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.core_drivers.some_plugins import (
    MemoryOptions,
    close_with_a_defect,
    driver,
    events,
    open_out_of_reach,
    open_with_a_defect,
    open_without_library,
    plugin,
)

Sections = Mapping[str, Mapping[str, Any]]

MAIN = {"main": {"driver": "memory", "label": "main"}}


@pytest.fixture(autouse=True)
def no_events() -> Iterator[None]:
    events.clear()
    yield
    events.clear()


@asynccontextmanager
async def open_with_a_silent_usage(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    yield FaultyStore(MemoryStore(), Fault(call=Call.USAGE, kind=FaultKind.HANG, times=None))


@asynccontextmanager
async def open_with_a_failing_usage(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    yield FaultyStore(MemoryStore(), Fault(call=Call.USAGE, kind=FaultKind.RAISE_BEFORE, times=None))


@pytest.fixture
def registry() -> PluginRegistry:
    return load_plugins(
        modules=[
            plugin(
                "tapes",
                driver("memory"),
                driver("skipped", open_without_library),
                driver("unreachable", open_out_of_reach),
                driver("defect", open_with_a_defect),
                driver("sticky", close_with_a_defect),
                driver("silent", open_with_a_silent_usage),
                driver("grumpy", open_with_a_failing_usage),
            )
        ]
    )


def by_instance(statuses: list[DriverStatus]) -> dict[str, DriverStatus]:
    return {status.instance: status for status in statuses if status.instance}


async def test_stores_are_opened_in_order_and_closed_in_reverse(registry: PluginRegistry) -> None:
    sections = MAIN | {"second": {"driver": "memory", "label": "second", "room": 10}}
    async with open_store_pool(registry, sections, "main") as pool:
        assert pool.ready_names() == ["main", "second"]
        assert pool.default_name == "main"
        async with pool.get("second").begin(blob_id("b")) as ingest:
            await ingest.write([b"12345"])
            await ingest.commit()
        second = by_instance(await DriverList(registry, pool, [], KeyPool()).statuses())["second"]
        assert (second.used_bytes, second.free_bytes, second.is_default) == (5, 5, False)
        assert second.capabilities == ["put_if_absent"]
    assert events == ["open main", "open second", "close second", "close main"]


async def test_every_state_is_told_with_its_reason(registry: PluginRegistry) -> None:
    sections: Sections = MAIN | {
        "a": {"driver": "skipped"},
        "b": {"driver": "unreachable"},
        "c": {"driver": "defect"},
    }
    async with open_store_pool(registry, sections, "main") as pool:
        statuses = await DriverList(registry, pool, [], KeyPool()).statuses()
        found = by_instance(statuses)
        assert {name: status.state for name, status in found.items()} == {
            "main": DriverState.READY,
            "a": DriverState.SKIPPED,
            "b": DriverState.FAILED,
            "c": DriverState.FAILED,
        }
        assert found["a"].detail == "the library tapes is not installed: pip install imsd[tapes]"
        assert found["b"].detail == "nobody answers"
        assert found["c"].detail == "KeyError: 'endpoint'"
        assert found["main"].plugin == "tapes"
        assert found["main"].is_default
        unused = [status for status in statuses if not status.instance]
        assert [status.name for status in unused] == ["sticky", "silent", "grumpy"]
        assert {status.state for status in unused} == {DriverState.DECLARED}
        assert {status.kind for status in statuses} == {"store"}
        assert pool.ready_names() == ["main"]


@pytest.mark.parametrize(("name", "said"), [("b", "nobody answers"), ("nowhere", "is not configured")])
async def test_a_store_that_is_not_ready_is_unavailable(
    registry: PluginRegistry, name: str, said: str
) -> None:
    async with open_store_pool(registry, MAIN | {"b": {"driver": "unreachable"}}, "main") as pool:
        with pytest.raises(Unavailable, match=said) as caught:
            pool.get(name)
        assert caught.value.reason == "DRIVER_NOT_READY"


@pytest.mark.parametrize(
    ("driver_name", "reason", "said"),
    [
        ("unreachable", "STORE_UNAVAILABLE", "nobody answers"),
        ("skipped", "DRIVER_NOT_READY", "tapes"),
        ("defect", "DRIVER_NOT_READY", "KeyError"),
    ],
)
async def test_a_required_store_stops_the_start_and_closes_the_others(
    registry: PluginRegistry, driver_name: str, reason: str, said: str
) -> None:
    sections = MAIN | {"second": {"driver": driver_name, "required": True}}
    with pytest.raises(Unavailable, match=said) as caught:
        async with open_store_pool(registry, sections, "main"):
            events.append("started")
    assert caught.value.reason == reason
    assert "'second'" in caught.value.message
    assert events == ["open main", "close main"]


async def test_the_default_store_is_required_unless_told_otherwise(registry: PluginRegistry) -> None:
    with pytest.raises(Unavailable, match="'main'"):
        async with open_store_pool(registry, {"main": {"driver": "defect"}}, "main"):
            events.append("started")
    lax = {"main": {"driver": "defect", "required": "false"}}
    async with open_store_pool(registry, lax, "main") as pool:
        assert pool.ready_names() == []
    assert events == []


@pytest.mark.parametrize(
    ("section", "said", "hint"),
    [
        ({"label": "x"}, "stores.second: driver is missing", ""),
        ({"driver": 3}, "stores.second: driver must be a text", ""),
        ({"driver": "memroy"}, "there is no driver 'memroy'", "did you mean memory?"),
        ({"driver": "memory", "rooom": 3}, "unknown key 'rooom'", "did you mean room?"),
        ({"driver": "memory", "room": "big"}, "room must be a whole number", ""),
        ({"driver": "memory", "required": "perhaps"}, "required must be true or false", ""),
    ],
)
async def test_a_wrong_section_stops_the_start_before_anything_is_opened(
    registry: PluginRegistry, section: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        async with open_store_pool(registry, MAIN | {"second": section}, "main"):
            events.append("started")
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert hint in caught.value.hint
    assert events == []


async def test_the_default_store_must_be_configured(registry: PluginRegistry) -> None:
    with pytest.raises(InvalidRequest, match="'mian' is not configured") as caught:
        async with open_store_pool(registry, MAIN, "mian"):
            events.append("started")
    assert caught.value.hint == "did you mean main?"


async def test_a_store_that_fails_to_close_keeps_no_other_from_closing(registry: PluginRegistry) -> None:
    sections = MAIN | {"second": {"driver": "sticky", "label": "second"}}
    async with open_store_pool(registry, sections, "main"):
        pass
    assert events == ["open main", "open second", "fail to close second", "close main"]


async def test_a_store_that_does_not_tell_its_usage_is_listed_all_the_same(
    registry: PluginRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_stores, "USAGE_SECONDS", 0.05)
    sections = MAIN | {"s": {"driver": "silent"}, "g": {"driver": "grumpy"}}
    async with open_store_pool(registry, sections, "main") as pool:
        listed = DriverList(registry, pool, [], KeyPool()).statuses()
        found = by_instance(await asyncio.wait_for(listed, 5))
    assert found["s"].state is found["g"].state is DriverState.READY
    assert "did not tell its usage" in found["s"].detail
    assert found["g"].detail == "the store is out of reach"
    assert found["s"].used_bytes is found["g"].used_bytes is None


class Stuck(MemoryStore):
    """A system call holds the thread that asks, as one of a file system that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.freed = threading.Event()

    async def usage(self) -> StoreUsage:
        await run_blocking(self.freed.wait)
        return StoreUsage(0, 0)


async def test_a_store_in_whose_usage_a_thread_is_stuck_is_listed_all_the_same(
    registry: PluginRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_stores, "USAGE_SECONDS", 0.05)
    stuck = Stuck()
    async with open_store_pool(registry, MAIN, "main") as pool:
        [main] = pool.opened
        asking = asyncio.create_task(opened_stores.status_of(replace(main, store=stuck)))
        try:
            await asyncio.wait([asking], timeout=5)
            assert asking.done()
            assert "did not tell its usage" in asking.result().detail
        finally:
            stuck.freed.set()
            await asyncio.wait([asking])
