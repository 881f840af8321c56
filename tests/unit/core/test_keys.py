"""Keys of projects: made once, named once, each project's own; disabled, rotated, deleted, brought back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from imsd.contract import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidRequest,
    KeyDescription,
    KeyState,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from imsd.core.keys.key_names import DEFAULT_KEY
from imsd.core.keys.key_pool import KeyPool
from imsd.core.keys.keys import Keys
from imsd.core.keys.project_keys import NewKey
from imsd.core.requests import RequestKey
from imsd.metadata import jobs as job_rows
from imsd.metadata import keys as key_rows
from imsd.metadata import quotas as quota_rows
from imsd.metadata.database import Database
from imsd.metadata.keys import KeyStatus
from imsd.metadata.records import JobKind, JobRecord, JobState
from tests.unit.core.core_world import now
from tests.unit.core.key_world import FINAL, PROJECT, KeyWorld, open_key_world
from tests.unit.metadata.conftest import database as any_database
from tests.unit.metadata.conftest import database_url, postgresql_url, sqlite_url

__all__ = ["any_database", "database_url", "postgresql_url", "sqlite_url"]


@pytest.fixture
async def world(any_database: Database) -> AsyncIterator[KeyWorld]:
    async with open_key_world(any_database) as world:
        yield world


async def end_of(world: KeyWorld, job_id: str) -> JobRecord:
    while True:
        async with world.runtime.database.reading() as c:
            job = await job_rows.get_job(c, PROJECT, job_id)
        assert job is not None
        if job.state in FINAL:
            return job
        await asyncio.sleep(0.01)


async def rotated(world: KeyWorld, name: str = "payroll", request_id: str = "") -> JobRecord:
    return await end_of(world, await world.keys.rotate(RequestKey(PROJECT, request_id, "r"), name))


async def test_a_key_is_enabled_and_found_by_its_id_and_its_name(world: KeyWorld) -> None:
    key_id = await world.create()
    for named in (key_id, "payroll"):
        view = await world.keys.get(PROJECT, named)
        assert (view.record.id, view.record.state, view.record.version) == (key_id, KeyStatus.ENABLED, 1)
        assert (view.image_count, view.problem) == (0, "")
    assert (await world.service.describe(key_id)).version == 1


async def test_a_repeated_request_gets_the_first_key(world: KeyWorld) -> None:
    assert await world.create(request_id="once") == await world.create(request_id="once")
    assert len((await world.keys.list(PROJECT, (), 10, ""))[0]) == 1
    with pytest.raises(InvalidRequest, match="different request"):
        await world.create("other", request_id="once")


async def test_two_requests_at_once_with_one_id_make_one_key(world: KeyWorld) -> None:
    made = await asyncio.gather(*(world.create(request_id="once") for _ in range(5)))
    assert len(set(made)) == 1


async def test_what_a_key_service_could_not_make_is_made_by_a_repeated_request(world: KeyWorld) -> None:
    world.service.is_away = True
    with pytest.raises(Unavailable):
        await world.create(request_id="once")
    assert (await world.keys.list(PROJECT, (), 10, ""))[0] == []
    world.service.is_away = False
    key_id = await world.create(request_id="once")
    assert (await world.keys.get(PROJECT, "payroll")).record.id == key_id


async def test_a_key_of_another_project_is_not_there(world: KeyWorld) -> None:
    key_id = await world.create(project_id="other")
    for named in (key_id, "payroll"):
        with pytest.raises(NotFound) as refused:
            await world.keys.get(PROJECT, named)
        assert refused.value.reason == "KEY_NOT_FOUND"
        with pytest.raises(NotFound):
            await world.keys.disable(PROJECT, named)
    assert (await world.keys.list(PROJECT, (), 10, ""))[0] == []
    await world.create()  # nor is its name taken


async def test_a_name_is_taken_once(world: KeyWorld) -> None:
    await world.create()
    with pytest.raises(AlreadyExists):
        await world.create()
    await world.create("other")
    with pytest.raises(AlreadyExists):
        await world.keys.update(PROJECT, "other", "payroll", None)
    changed = await world.keys.update(PROJECT, "other", "third", "of the third kind")
    assert (changed.record.name, changed.record.description) == ("third", "of the third kind")


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 256, "my/default", DEFAULT_KEY, "a\n"])
async def test_a_name_that_cannot_be_is_refused(world: KeyWorld, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await world.create(name)


async def test_a_daemon_without_a_key_service_says_so(world: KeyWorld) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        KeyPool().name_for("")
    assert refused.value.reason == "KEY_SERVICE_MISSING"
    with pytest.raises(NotFound, match="no key service 'vault'"):
        await world.keys.create(RequestKey(PROJECT, "", ""), NewKey(name="x", key_service="vault"))


async def test_the_default_key_is_made_on_first_use_and_once(world: KeyWorld) -> None:
    found = await asyncio.gather(*(world.project_keys.for_encrypting(PROJECT, DEFAULT_KEY) for _ in range(5)))
    assert len({each.id for each in found}) == 1
    assert found[0].name == DEFAULT_KEY
    assert (await world.keys.get(PROJECT, DEFAULT_KEY)).record.state is KeyStatus.ENABLED


async def test_the_default_key_keeps_its_name(world: KeyWorld) -> None:
    """Else who encrypts under it would get another one, or the one with the other name."""
    made = await world.project_keys.for_encrypting(PROJECT, DEFAULT_KEY)
    with pytest.raises(InvalidRequest, match="keeps its name") as refused:
        await world.keys.update(PROJECT, made.id, "payroll", None)
    assert refused.value.field == "name"
    view = await world.keys.update(PROJECT, made.id, DEFAULT_KEY, "for all")
    assert (view.record.name, view.record.description) == (DEFAULT_KEY, "for all")


async def test_the_quota_of_keys_is_hard(world: KeyWorld) -> None:
    async with world.runtime.database.transaction() as c:
        await quota_rows.set_quota(c, PROJECT, "encryption_keys", 2, now())
    outcomes = await asyncio.gather(*(world.create(f"k{n}") for n in range(6)), return_exceptions=True)
    assert sum(isinstance(each, LimitExceeded) for each in outcomes) == 4
    assert len((await world.keys.list(PROJECT, (), 10, ""))[0]) == 2


async def test_lists_go_page_by_page_and_by_state(world: KeyWorld) -> None:
    made = [await world.create(f"k{n}") for n in range(5)]
    first, token = await world.keys.list(PROJECT, (), 3, "")
    second, end = await world.keys.list(PROJECT, (), 3, token)
    assert [each.record.id for each in (*first, *second)] == made[::-1]
    assert end == ""
    await world.keys.disable(PROJECT, "k2")
    disabled, _ = await world.keys.list(PROJECT, (KeyStatus.DISABLED,), 3, "")
    assert [each.record.name for each in disabled] == ["k2"]


async def test_a_disabled_key_is_used_for_nothing_at_once(world: KeyWorld) -> None:
    await world.create()
    made = await world.data_key()
    assert len(await world.runtime.data_keys.unwrapped(made.image_id)) == 32
    view = await world.keys.disable(PROJECT, "payroll")
    assert (view.record.state, view.image_count) == (KeyStatus.DISABLED, 1)
    with pytest.raises(FailedPrecondition) as refused:
        await world.runtime.data_keys.unwrapped(made.image_id)
    assert refused.value.reason == "KEY_DISABLED"
    assert "'payroll'" in refused.value.message
    with pytest.raises(FailedPrecondition):
        await world.project_keys.for_encrypting(PROJECT, "payroll")
    await world.keys.enable(PROJECT, "payroll")
    assert len(await world.runtime.data_keys.unwrapped(made.image_id)) == 32


async def test_what_is_unwrapped_while_its_key_is_disabled_is_not_remembered(world: KeyWorld) -> None:
    await world.create()
    made = await world.data_key()
    world.runtime.data_keys.forget(made.key_id)
    unwrap, is_unwrapped, goes_on = world.service.unwrap, asyncio.Event(), asyncio.Event()

    async def slowly(key_id: str, wrapped: bytes, context: bytes) -> bytes:
        data_key = await unwrap(key_id, wrapped, context)
        is_unwrapped.set()
        await goes_on.wait()
        return data_key

    world.service.unwrap = slowly  # type: ignore[method-assign]
    reading = asyncio.create_task(world.runtime.data_keys.unwrapped(made.image_id))
    await is_unwrapped.wait()
    await world.keys.disable(PROJECT, "payroll")
    goes_on.set()
    await reading  # its answer was on the way
    with pytest.raises(FailedPrecondition) as refused:
        await world.runtime.data_keys.unwrapped(made.image_id)
    assert refused.value.reason == "KEY_DISABLED"


async def test_a_key_that_is_disabled_though_nobody_heard_of_it_is_used_for_nothing(world: KeyWorld) -> None:
    await world.create()
    made = await world.data_key()
    disable = world.service.set_state

    async def unheard(key_id: str, state: KeyState) -> KeyDescription:
        await disable(key_id, state)
        raise Unavailable("the answer was lost", reason="KEY_SERVICE_UNAVAILABLE")

    world.service.set_state = unheard  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.keys.disable(PROJECT, "payroll")
    with pytest.raises(FailedPrecondition) as refused:
        await world.runtime.data_keys.unwrapped(made.image_id)
    assert refused.value.reason == "KEY_DISABLED"


async def test_a_data_key_is_asked_for_once_while_it_is_remembered(world: KeyWorld) -> None:
    await world.create()
    made = await world.data_key()
    world.runtime.data_keys.forget(made.key_id)
    first = await world.runtime.data_keys.unwrapped(made.image_id)
    assert await world.runtime.data_keys.unwrapped(made.image_id) == first
    assert world.service.unwrapped == 1


async def test_what_shows_a_data_key_shows_no_byte_of_it(world: KeyWorld) -> None:
    await world.create()
    made = await world.data_key()
    key = await world.runtime.data_keys.unwrapped(made.image_id)
    shown = repr(vars(world.runtime.data_keys)) + repr(made)
    assert repr(key)[2:-1] not in shown
    assert key.hex() not in shown


async def test_a_wrapped_data_key_is_good_for_its_image_only(world: KeyWorld) -> None:
    await world.create()
    one, other = await world.data_key(), await world.data_key()
    async with world.runtime.database.transaction() as c:
        await key_rows.replace_wrapped(c, other, one.wrapped, 1, now())
    world.runtime.data_keys.forget(one.key_id)
    with pytest.raises(DataLoss) as refused:
        await world.runtime.data_keys.unwrapped(other.image_id)
    assert refused.value.reason == "KEY_MISMATCH"


async def test_rotation_wraps_every_data_key_anew_and_each_is_the_same(world: KeyWorld) -> None:
    await world.create()
    await world.create("other")
    made = [await world.data_key() for _ in range(5)]
    aside = await world.data_key("other")
    before = [await world.runtime.data_keys.unwrapped(each.image_id) for each in made]
    job = await rotated(world)
    assert job.state is JobState.SUCCESS, job
    assert job.result == {"key_id": made[0].key_id, "version": 2, "image_count": 5}
    for each, data_key in zip(made, before, strict=True):
        after = await world.wrapped(each.image_id)
        assert after is not None
        assert after.key_version == 2
        assert after.wrapped != each.wrapped
        world.runtime.data_keys.forget(each.key_id)
        assert await world.runtime.data_keys.unwrapped(each.image_id) == data_key
    assert await world.wrapped(aside.image_id) == aside
    assert (await world.keys.get(PROJECT, "payroll")).record.version == 2


async def test_a_version_that_was_made_elsewhere_is_not_the_one_that_a_rotation_makes(
    world: KeyWorld,
) -> None:
    key_id = await world.create()
    made = await world.data_key()
    await world.service.rotate(key_id)
    job = await rotated(world)
    assert (job.state, job.result["version"]) == (JobState.SUCCESS, 3)
    kept = await world.wrapped(made.image_id)
    assert kept is not None
    assert kept.key_version == 3


async def test_a_rotation_that_a_crash_ended_goes_on_with_what_is_left(world: KeyWorld) -> None:
    await world.create()
    made = [await world.data_key() for _ in range(3)]
    await world.service.rotate(made[0].key_id)  # by the run that died, which wrapped one of them
    anew = await world.service.rewrap(made[0].key_id, made[0].wrapped, made[0].image_id.encode())
    async with world.runtime.database.transaction() as c:
        await key_rows.replace_wrapped(c, made[0], anew, 2, now())
        begun = JobRecord(
            id=world.runtime.new_id(),
            project_id=PROJECT,
            kind=JobKind.ROTATE_KEY,
            state=JobState.INIT,
            spec={"key_id": made[0].key_id, "version": 2},
            created_at=now(),
        )
        await job_rows.insert_job(c, begun)
        world.dispatcher.dispatch(begun)
    job = await end_of(world, begun.id)
    assert job.result == {"key_id": made[0].key_id, "version": 2, "image_count": 2}


async def test_what_was_altered_fails_the_rotation_and_keeps_no_other_from_it(world: KeyWorld) -> None:
    await world.create()
    made = [await world.data_key() for _ in range(3)]
    async with world.runtime.database.transaction() as c:
        await key_rows.replace_wrapped(c, made[1], b"rubbish", 1, now())
    job = await rotated(world)
    assert (job.state, job.error_reason) == (JobState.FAIL, "KEY_MISMATCH")
    versions = [found.key_version for each in made if (found := await world.wrapped(each.image_id))]
    assert sorted(versions) == [1, 2, 2]


async def test_a_key_that_is_being_rotated_gets_no_second_job(world: KeyWorld) -> None:
    await world.create()
    first = await world.keys.rotate(RequestKey(PROJECT, "a", "r"), "payroll")
    second = await world.keys.rotate(RequestKey(PROJECT, "b", "r"), "payroll")
    assert await world.keys.rotate(RequestKey(PROJECT, "a", "r"), "payroll") == first
    assert first == second
    await end_of(world, first)
    assert (await world.keys.get(PROJECT, "payroll")).record.version == 2


@pytest.mark.parametrize("days", [6, 1097, 0, -1])
async def test_a_deletion_is_scheduled_within_the_bounds_of_kms(world: KeyWorld, days: int) -> None:
    await world.create()
    with pytest.raises(InvalidRequest):
        await world.keys.schedule_deletion(PROJECT, "payroll", days)


async def test_a_deletion_can_be_cancelled_and_leaves_the_key_disabled(world: KeyWorld) -> None:
    await world.create()
    made = await world.data_key()
    view = await world.keys.schedule_deletion(PROJECT, "payroll", 7)
    assert (view.record.state, view.image_count) == (KeyStatus.PENDING_DELETION, 1)
    assert view.record.delete_at is not None
    for refusing in (Keys.enable, Keys.disable):
        with pytest.raises(FailedPrecondition, match="will be deleted"):
            await refusing(world.keys, PROJECT, "payroll")
    with pytest.raises(FailedPrecondition) as refused:
        await world.runtime.data_keys.unwrapped(made.image_id)
    assert refused.value.reason == "KEY_PENDING_DELETION"
    view = await world.keys.cancel_deletion(PROJECT, "payroll")
    assert (view.record.state, view.record.delete_at) == (KeyStatus.DISABLED, None)
    with pytest.raises(FailedPrecondition, match="no deletion"):
        await world.keys.cancel_deletion(PROJECT, "payroll")


async def test_a_deleted_key_is_remembered_while_there_is_something_under_it(world: KeyWorld) -> None:
    key_id = await world.create()
    await world.create("unused")
    made = await world.data_key()
    for name in ("payroll", "unused"):
        await world.keys.schedule_deletion(PROJECT, name, 7)
    await world.keys.look_after()
    assert (await world.keys.get(PROJECT, key_id)).record.state is KeyStatus.PENDING_DELETION
    world.clock.ahead = timedelta(days=8)
    await world.keys.look_after()
    found = (await world.keys.list(PROJECT, (), 10, ""))[0]
    assert [(each.record.id, each.record.state) for each in found] == [(key_id, KeyStatus.DELETED)]
    with pytest.raises(NotFound) as refused:
        await world.runtime.data_keys.unwrapped(made.image_id)
    assert refused.value.reason == "KEY_NOT_FOUND"
    with pytest.raises(NotFound):
        await world.keys.get(PROJECT, "payroll")  # its name is free
    await world.create()
    async with world.runtime.database.transaction() as c:
        await key_rows.forget_data_key(c, made.image_id)
    assert await world.wrapped(made.image_id) is None
    await world.keys.look_after()
    assert [each.record.name for each in (await world.keys.list(PROJECT, (), 10, ""))[0]] == ["payroll"]


async def test_a_key_that_is_gone_in_its_key_service_can_be_deleted(world: KeyWorld) -> None:
    """Else it would keep its name, and its project from being deleted, for ever."""
    key_id, kept = await world.create(), await world.create("kept")
    await world.service.schedule_deletion(key_id, now())
    view = await world.keys.schedule_deletion(PROJECT, "payroll", 7)
    assert (view.record.state, view.record.version) == (KeyStatus.PENDING_DELETION, 1)
    with pytest.raises(NotFound):
        await world.keys.cancel_deletion(PROJECT, "payroll")
    await world.keys.look_after()
    assert len((await world.keys.list(PROJECT, (), 10, ""))[0]) == 2
    world.clock.ahead = timedelta(days=8)
    await world.keys.look_after()
    assert [each.record.id for each in (await world.keys.list(PROJECT, (), 10, ""))[0]] == [kept]


async def test_a_key_whose_key_service_is_away_keeps_no_other_from_its_end(world: KeyWorld) -> None:
    """As one that is not configured any more."""
    lost, other = await world.create("lost"), await world.create("other")
    for key_id in (lost, other):
        await world.keys.schedule_deletion(PROJECT, key_id, 7)
    async with world.runtime.database.transaction() as c:
        await key_rows.update_key(c, lost, {"key_service": "gone"})
    world.clock.ahead = timedelta(days=8)
    await world.keys.look_after()
    found = (await world.keys.list(PROJECT, (), 10, ""))[0]
    assert [(each.record.id, each.record.state) for each in found] == [(lost, KeyStatus.PENDING_DELETION)]


async def test_a_key_service_that_is_away_keeps_no_key_from_being_shown(world: KeyWorld) -> None:
    await world.create()
    world.service.is_away = True
    view = await world.keys.get(PROJECT, "payroll")
    assert (view.record.state, view.problem) == (KeyStatus.ENABLED, "the key service is out of reach")
    with pytest.raises(Unavailable) as refused:
        await world.data_key()
    assert refused.value.reason == "KEY_SERVICE_UNAVAILABLE"


async def test_a_state_that_was_changed_in_the_key_service_is_noticed(world: KeyWorld) -> None:
    key_id = await world.create()
    await world.service.rotate(key_id)
    assert (await world.keys.get(PROJECT, "payroll")).record.version == 2
    assert (await world.keys.list(PROJECT, (), 10, ""))[0][0].record.version == 2


async def test_a_key_whose_making_a_crash_ended_leaves_its_name_soon(world: KeyWorld) -> None:
    made = asyncio.Event()

    async def hang(key_id: str) -> None:
        made.set()
        await asyncio.Event().wait()

    world.service.create = hang  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(world.create())
    await made.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del world.service.create
    with pytest.raises(AlreadyExists):
        await world.create()
    world.clock.ahead = timedelta(minutes=11)
    await world.keys.look_after()
    await world.create()
