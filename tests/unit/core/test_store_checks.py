"""Checks of stores in use: each promise has a result, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imsd.contract import BlobStore, FailedPrecondition, NotFound, Unavailable
from imsd.core.requests import RequestKey
from imsd.core.stores.store_check import Outcome, try_promises
from imsd.core.stores.store_rates import StoreRates
from imsd.metadata.database import Database
from imsd.metadata.records import JobState
from imsd.promises.promise import Place, Promise
from imsd.promises.store_promises import STORE_PROMISES
from imsd.testing.faulty_store import Call, Fault, FaultKind
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.copy_world import a_disk, content_of, imported
from tests.unit.core.core_world import STORE, new_id
from tests.unit.core.import_world import PROJECT, SECOND, ImportService, ImportWorld, failed


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


@pytest.fixture
async def service(world: ImportWorld) -> AsyncIterator[ImportService]:
    async with world.serving() as service:
        yield service


async def started(service: ImportService, store: str = SECOND) -> str:
    return await service.store_checks.start(RequestKey(PROJECT, "", new_id()), store)


async def checked(service: ImportService, store: str = SECOND) -> dict[str, Any]:
    view = await service.end_of(await started(service, store))
    assert view.record.state is JobState.SUCCESS, view
    return dict(view.record.result)


async def left(service: ImportService, store: str = SECOND) -> list[str]:
    return [blob.id async for blob in service.runtime.stores.get(store).list("checks/")]


async def test_a_good_store_keeps_every_promise_and_its_images(service: ImportService) -> None:
    disk = a_disk(1, 1)
    image = await imported(service, disk)
    report = await checked(service, STORE)
    assert {each["name"]: each["outcome"] for each in report["promises"]} == {
        promise.name: "skipped" if promise.name == "usage_follows_what_is_stored" else "kept"
        for promise in STORE_PROMISES
    }
    assert min(report["rates"].values()) > 0
    assert await left(service, STORE) == []
    assert await content_of(service, image) == disk


async def test_a_broken_promise_is_told_with_what_the_store_did(
    world: ImportWorld, service: ImportService
) -> None:
    # The first range of the last blob that is read lacks a byte.
    world.second.add(Fault(call=Call.READ, kind=FaultKind.CORRUPT, skip=3))
    report = await checked(service)
    broken = [each for each in report["promises"] if each["outcome"] == "broken"]
    assert len(broken) == 1
    assert "was expected" in broken[0]["detail"]
    assert await left(service) == []


async def test_a_store_that_takes_nothing_is_told_so_at_once(
    world: ImportWorld, service: ImportService
) -> None:
    def read_only() -> Exception:
        return FailedPrecondition("it does not take writes", reason="STORE_READ_ONLY")

    for call in (Call.BEGIN, Call.WRITE, Call.DELETE):
        world.second.add(Fault(call=call, kind=FaultKind.RAISE_BEFORE, error=read_only, times=None))
    report = await checked(service)
    first, *others = report["promises"]
    assert (first["outcome"], first["detail"]) == ("broken", "it does not take writes [STORE_READ_ONLY]")
    assert {each["outcome"] for each in others} == {"skipped"}
    assert report["rates"] is None


async def test_a_store_that_hangs_does_not_keep_the_check() -> None:
    async def never(place: Place) -> None:
        """It never ends."""
        await place.put("a", b"content")
        await asyncio.Event().wait()

    store = MemoryStore()
    [tried] = await try_promises(store, "checks/1/", lambda done: None, [Promise.of(never)], seconds=0.01)
    assert (tried.name, tried.summary, tried.outcome) == ("never", "It never ends.", Outcome.BROKEN)
    assert "not done after 0.01 seconds" in tried.detail
    assert [blob async for blob in store.list()] == []


async def test_a_defect_of_a_driver_is_a_broken_promise() -> None:
    async def fail(place: Place) -> None:
        """It fails."""
        raise ZeroDivisionError("division by zero")

    [tried] = await try_promises(MemoryStore(), "checks/1/", lambda done: None, [Promise.of(fail)])
    assert (tried.outcome, tried.detail) == (Outcome.BROKEN, "ZeroDivisionError: division by zero")


async def test_an_unknown_store_and_two_checks_at_once_are_refused(
    world: ImportWorld, service: ImportService
) -> None:
    with pytest.raises(NotFound, match="tape"):
        await started(service, "tape")
    world.second.add(Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    job_id = await started(service)
    with pytest.raises(FailedPrecondition, match="checks the store 'second' already") as caught:
        await started(service)
    assert job_id in caught.value.hint
    world.second.heal()
    assert (await service.end_of(job_id)).record.state is JobState.SUCCESS


@pytest.mark.parametrize("commits", [0, 5, 40])
async def test_a_cancelled_check_leaves_nothing(
    world: ImportWorld, service: ImportService, commits: int
) -> None:
    world.second.add(Fault(call=Call.COMMIT, kind=FaultKind.HANG, skip=commits))
    job_id = await started(service)
    while not world.second.hanging:
        await asyncio.sleep(0.001)
    await service.jobs.cancel(PROJECT, job_id)
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    assert await left(service) == []


async def test_a_cancelled_check_of_a_store_that_hangs_keeps_no_other_check_waiting(
    world: ImportWorld, service: ImportService
) -> None:
    world.second.add(Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    world.second.add(Fault(call=Call.LIST, kind=FaultKind.HANG, skip=1, times=None))
    job_id = await started(service)
    while not world.second.hanging:
        await asyncio.sleep(0.001)
    await service.jobs.cancel(PROJECT, job_id)
    async with asyncio.timeout(60):
        await checked(service, STORE)
    assert (await service.jobs.get(PROJECT, job_id)).record.state is JobState.CANCELLING
    world.second.heal()
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    assert await left(service) == []


async def test_a_check_of_a_store_that_does_not_delete_ends(
    world: ImportWorld, service: ImportService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsd.core.stores.store_check.CLEAR_SECONDS", 0.05)
    world.second.add(Fault(call=Call.DELETE, kind=FaultKind.HANG, times=None))
    async with asyncio.timeout(60):
        view = await service.end_of(await started(service))
    assert failed(view) == "STORE_UNAVAILABLE"
    assert "checks/" in view.record.error_message
    world.second.heal()
    async with asyncio.timeout(30):
        while await left(service):
            await asyncio.sleep(0.01)


async def test_a_store_that_is_too_slow_to_be_measured_has_no_rates(
    service: ImportService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(store: BlobStore, prefix: str) -> StoreRates:
        await Place(store, prefix).put("pack", b"left")
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("imsd.core.workflows.check_store.measure", endless)
    monkeypatch.setattr("imsd.core.workflows.check_store.MEASURE_SECONDS", 0.05)
    async with asyncio.timeout(60):
        report = await checked(service)
    assert report["rates"] is None
    assert {each["outcome"] for each in report["promises"]} <= {"kept", "skipped"}
    assert await left(service) == []


async def test_what_a_store_once_kept_of_a_check_goes_with_the_next_one(
    world: ImportWorld, service: ImportService
) -> None:
    """One that neither gives blobs back nor deletes them is away, as far as a check can tell."""
    for call in (Call.READ, Call.DELETE):
        world.second.add(Fault(call=call, kind=FaultKind.RAISE_BEFORE, times=None))
    assert (await checked(service))["promises"][0]["outcome"] == "broken"
    world.second.heal()
    assert await left(service)
    await checked(service)
    assert await left(service) == []


async def test_a_check_that_was_killed_begins_anew_and_leaves_nothing(world: ImportWorld) -> None:
    async with world.serving() as service:
        world.second.add(Fault(call=Call.LIST, kind=FaultKind.HANG, skip=10))
        job_id = await started(service)
        while not world.second.hanging:
            await asyncio.sleep(0.001)
        other = world.second._store
        async with other.begin(Place(other, f"checks/{job_id}/").id("7/left")) as ingest:
            await ingest.commit()
    world.second.heal()
    async with world.serving() as service:
        view = await service.end_of(job_id)
        assert view.record.state is JobState.SUCCESS, view
        assert "broken" not in {each["outcome"] for each in view.record.result["promises"]}
        assert await left(service) == []


async def test_what_cannot_be_deleted_fails_the_check_and_is_deleted_later(
    world: ImportWorld, service: ImportService
) -> None:
    world.second.add(
        Fault(
            call=Call.DELETE,
            kind=FaultKind.RAISE_BEFORE,
            skip=6,
            error=lambda: Unavailable("out of reach", reason="STORE_UNAVAILABLE"),
        )
    )
    view = await service.end_of(await started(service))
    assert view.record.state in (JobState.FAIL, JobState.SUCCESS)
    async with asyncio.timeout(30):
        while await left(service):
            await asyncio.sleep(0.01)
