"""What is recorded of an hour, once, whatever happens; and who asks for which hours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from imsd.contract import InvalidRequest
from imsd.core import usage
from imsd.core.runtime import Runtime
from imsd.core.usage import Usage
from imsd.metadata import images
from tests.unit.metadata.samples import an_image

NINE = datetime(2026, 5, 1, 9, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NINE + timedelta(minutes=20)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(runtime: Runtime, clock: Clock) -> Runtime:
    return replace(runtime, clock=clock)


async def everything(world: Runtime, retention: timedelta = timedelta(days=9)) -> dict[tuple[int, str], int]:
    """What was recorded, by hour and resource."""
    service = Usage(world, retention)
    query = service.query("*", NINE - timedelta(days=9), NINE + timedelta(days=9))
    found, token = await service.list(query, 1000, "")
    assert token == ""
    return {(each.hour.hour, each.resource): each.quantity for each in found}


async def store(world: Runtime, **values: object) -> str:
    record = an_image(**values)
    async with world.database.transaction() as c:
        await images.insert_image(c, record)
    return record.id


async def test_an_hour_has_the_most_that_was_seen_in_it_however_often_it_is_looked_at(
    world: Runtime, clock: Clock
) -> None:
    service = Usage(world, timedelta(days=9))
    image_id = await store(world, stored_size=1000)
    await service.look()
    await store(world, stored_size=50)
    for daemon in (service, Usage(world, timedelta(days=9)), service):
        await daemon.look()
    async with world.database.transaction() as c:
        await images.delete_image_row(c, image_id)
    await service.look()
    assert await everything(world) == {(9, "image_hours"): 2, (9, "image_byte_hours"): 1050}
    clock.now += timedelta(hours=1)
    await service.look()
    assert await everything(world) == {
        (9, "image_hours"): 2,
        (9, "image_byte_hours"): 1050,
        (10, "image_hours"): 1,
        (10, "image_byte_hours"): 50,
    }


async def test_what_flows_counts_in_its_hour_and_only_if_its_transaction_ends_well(
    world: Runtime, clock: Clock
) -> None:
    async with world.database.transaction() as c:
        await usage.count(c, world, "lab", usage.IMPORT_BYTES, 10)
        await usage.count(c, world, "lab", usage.EXPORT_BYTES, 0)

    async def fail() -> None:
        async with world.database.transaction() as c:
            await usage.count(c, world, "lab", usage.IMPORT_BYTES, 100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    clock.now += timedelta(minutes=40)
    async with world.database.transaction() as c:
        await usage.count(c, world, "lab", usage.IMPORT_BYTES, 7)
    assert await everything(world) == {(9, "import_bytes"): 10, (10, "import_bytes"): 7}


async def test_records_are_kept_as_long_as_is_said(world: Runtime, clock: Clock) -> None:
    await store(world, stored_size=1)
    service = Usage(world, timedelta(hours=2))
    for _ in range(4):
        await service.look()
        clock.now += timedelta(hours=1)
    assert {hour for hour, _ in await everything(world)} == {10, 11, 12}


def test_hours_are_whole_and_the_last_24_unless_told_otherwise(world: Runtime) -> None:
    service = Usage(world, timedelta(days=9))
    query = service.query("", None, None)
    assert query.project_id == "default"
    assert (query.begin, query.end) == (NINE - timedelta(hours=24), NINE + timedelta(hours=1))
    query = service.query("lab", NINE + timedelta(minutes=5), NINE + timedelta(hours=2))
    assert (query.begin, query.end) == (NINE, NINE + timedelta(hours=2))
    last = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert service.query("*", None, last).project_id is None
    for project, begin, end in (("a b", None, None), ("lab", NINE, NINE), ("lab", None, NINE - timedelta(2))):
        with pytest.raises(InvalidRequest):
            service.query(project, begin, end)


async def test_a_page_token_belongs_to_its_query(world: Runtime) -> None:
    service = Usage(world, timedelta(days=9))
    async with world.database.transaction() as c:
        for project in ("a", "b-_", "c"):
            await usage.count(c, world, project, usage.IMPORT_BYTES, 1)
    query = service.query("*", None, None)
    found, token = await service.list(query, 2, "")
    assert [each.project_id for each in found] == ["a", "b-_"]
    found, end = await service.list(query, 2, token)
    assert ([each.project_id for each in found], end) == (["c"], "")
    with pytest.raises(InvalidRequest) as refused:
        await service.list(service.query("a", None, None), 2, token)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


async def test_pages_go_on_over_the_end_of_an_hour(world: Runtime, clock: Clock) -> None:
    """Whoever asks for the last 24 hours asks for others a moment later, and means the same."""
    service = Usage(world, timedelta(days=9))
    clock.now = NINE - timedelta(hours=24)
    async with world.database.transaction() as c:
        for project in ("a", "b", "c"):
            await usage.count(c, world, project, usage.IMPORT_BYTES, 1)
    clock.now = NINE + timedelta(minutes=59)
    found, token = await service.list(service.query("*", None, None), 2, "")
    assert [each.project_id for each in found] == ["a", "b"]
    clock.now += timedelta(minutes=2)
    found, end = await service.list(service.query("*", None, None), 2, token)
    assert ([each.project_id for each in found], end) == (["c"], "")


async def test_looking_goes_on_until_it_is_stopped(runtime: Runtime) -> None:
    service = Usage(runtime, timedelta(days=9))
    await store(runtime, stored_size=3)
    service.start()
    while True:
        found, _ = await service.list(service.query("lab", None, None), 10, "")
        if found:
            break
    await service.stop()
    assert {each.resource for each in found} == {"image_hours", "image_byte_hours"}
