from __future__ import annotations

import asyncio
import dataclasses
from datetime import datetime
from typing import Any

import pytest

from imsd.contract import Conflict
from imsd.metadata import jobs
from imsd.metadata.database import Database
from imsd.metadata.jobs import JobProgress, JobQuery
from imsd.metadata.records import JobKind, JobRecord, JobState
from tests.unit.metadata.samples import a_job, at, claimed, new_id


async def put(database: Database, *records: JobRecord) -> None:
    async with database.transaction() as c:
        for record in records:
            await jobs.insert_job(c, record)


async def claim(database: Database, record: JobRecord, owner: str, now: datetime) -> JobRecord | None:
    async with database.transaction() as c:
        return await jobs.claim_job(c, record.id, owner, at(now.timestamp() - at(0).timestamp() + 15), now)


async def get(database: Database, record: JobRecord) -> JobRecord:
    async with database.reading() as c:
        found = await jobs.get_job(c, record.project_id, record.id)
    assert found is not None
    return found


async def test_a_job_comes_back_as_it_went_in(database: Database) -> None:
    record = a_job(
        kind=JobKind.VERIFY_IMAGE,
        spec={"tags": {"a": "b"}, "n": 1, "list": [1, "x", None]},
        result={"image_id": "x"},
        image_id=new_id(),
        percent=12.5,
        started_at=at(1),
    )
    await put(database, record)
    assert await get(database, record) == record


async def test_another_project_has_no_such_job(database: Database) -> None:
    record = a_job()
    await put(database, record)
    async with database.reading() as c:
        assert await jobs.get_job(c, "other", record.id) is None
        assert await jobs.list_jobs(c, JobQuery(project_id="other"), 10, None) == []


async def test_jobs_are_listed_newest_first_in_pages(database: Database) -> None:
    records = [a_job(created_at=at(number // 3)) for number in range(11)]
    await put(database, *records)
    seen: list[JobRecord] = []
    after = None
    async with database.reading() as c:
        while page := await jobs.list_jobs(c, JobQuery(project_id="lab"), 4, after):
            seen += page
            after = (page[-1].created_at, page[-1].id)
    assert seen == sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)


async def test_conditions_narrow_the_list(database: Database) -> None:
    image_id = new_id()
    verifying = a_job(kind=JobKind.VERIFY_IMAGE, image_id=image_id)
    creating = a_job(image_id=image_id, state=JobState.FAIL)
    await put(database, verifying, creating, a_job())

    async def listed(**conditions: Any) -> set[str]:
        async with database.reading() as c:
            found = await jobs.list_jobs(c, JobQuery(project_id="lab", **conditions), 10, None)
        return {record.id for record in found}

    assert await listed(image_id=image_id) == {verifying.id, creating.id}
    assert await listed(kinds=(JobKind.VERIFY_IMAGE,)) == {verifying.id}
    assert await listed(states=(JobState.FAIL, JobState.SUCCESS)) == {creating.id}
    assert await listed(states=(JobState.FAIL,), kinds=(JobKind.VERIFY_IMAGE,)) == set()


async def test_unfinished_jobs_of_all_projects_come_in_the_order_of_creation(database: Database) -> None:
    records = [
        a_job(state=state, created_at=at(-number), project_id=f"p{number}")
        for number, state in enumerate(JobState)
    ]
    await put(database, *records)
    async with database.reading() as c:
        found = [record.state for record in await jobs.unfinished_jobs(c)]
    assert found == [JobState.CANCELLING, JobState.RUNNING, JobState.INIT]


async def test_a_claim_starts_the_job(database: Database) -> None:
    record = a_job()
    await put(database, record)
    held = await claim(database, record, "me", at(5))
    assert held == dataclasses.replace(
        record,
        state=JobState.RUNNING,
        owner="me",
        fence=1,
        attempt=1,
        lease_until=at(20),
        started_at=at(5),
    )
    assert await get(database, record) == held


async def test_a_held_job_is_claimed_by_another_only_when_its_lease_is_over(database: Database) -> None:
    record = a_job()
    await put(database, record)
    assert await claim(database, record, "one", at(0))
    assert await claim(database, record, "two", at(14)) is None
    taken = await claim(database, record, "two", at(15))
    assert taken is not None
    assert (taken.owner, taken.fence, taken.attempt, taken.started_at) == ("two", 2, 2, at(0))


async def test_the_owner_may_claim_again_and_fences_its_earlier_run_off(database: Database) -> None:
    record = a_job()
    await put(database, record)
    await claim(database, record, "me", at(0))
    again = await claim(database, record, "me", at(1))
    assert again is not None
    assert again.fence == 2


async def test_a_cancelled_job_is_claimed_for_its_clean_up_and_not_attempted_again(
    database: Database,
) -> None:
    record = a_job(state=JobState.CANCELLING, attempt=1)
    await put(database, record)
    held = await claim(database, record, "me", at(0))
    assert held is not None
    assert (held.state, held.attempt, held.fence) == (JobState.CANCELLING, 1, 1)


@pytest.mark.parametrize("state", [JobState.SUCCESS, JobState.FAIL, JobState.CANCELLED])
async def test_a_final_job_is_not_claimed(database: Database, state: JobState) -> None:
    record = a_job(state=state)
    await put(database, record)
    assert await claim(database, record, "me", at(10**6)) is None


async def test_of_many_claimers_one_gets_each_job(database: Database) -> None:
    records = [a_job() for _ in range(10)]
    await put(database, *records)
    claims = [(record, f"daemon {n}") for record in records for n in range(5)]
    won = await asyncio.gather(*[claim(database, record, owner, at(0)) for record, owner in claims])
    assert sorted(record.id for record in won if record) == sorted(record.id for record in records)


async def test_a_final_job_belongs_to_nobody(database: Database) -> None:
    record = a_job()
    await put(database, record)
    async with database.transaction() as c:
        held = await claimed(c, record)
        values = {"result": {"image_id": "x"}, "finished_at": at(9), "percent": 100.0}
        done = await jobs.move_job(
            c, record.id, [JobState.RUNNING], JobState.SUCCESS, fence=held.fence, values=values
        )
    assert done == dataclasses.replace(
        held, state=JobState.SUCCESS, owner="", lease_until=None, **values  # type: ignore[arg-type]
    )  # fmt: skip


async def test_a_zombie_cannot_finish_a_job(database: Database) -> None:
    record = a_job()
    await put(database, record)
    async with database.transaction() as c:
        zombie = await claimed(c, record, "zombie")
        current = await claimed(c, record, "current")
        move = [JobState.RUNNING], JobState.SUCCESS
        assert await jobs.move_job(c, record.id, *move, fence=zombie.fence, values={}) is None
        assert await jobs.move_job(c, record.id, *move, fence=current.fence, values={}) is not None


async def test_a_zombie_writes_no_progress_and_renews_no_lease(database: Database) -> None:
    record = a_job()
    await put(database, record)
    async with database.transaction() as c:
        zombie = await claimed(c, record, "zombie")
        current = await claimed(c, record, "current")
        await jobs.save_progress(c, [JobProgress(record.id, zombie.fence, "store", 9, 10, 90.0)], at(99))
    assert await get(database, record) == current


async def test_progress_of_many_jobs_is_written_at_once_and_never_falls(database: Database) -> None:
    records = [a_job() for _ in range(5)]
    await put(database, *records)
    async with database.transaction() as c:
        held = [await claimed(c, record) for record in records]
    for done, percent, shown in ((1, 10.0, 10.0), (2, 50.0, 50.0), (0, 40.0, 50.0)):
        rows = [JobProgress(job.id, job.fence, f"phase {done}", done, 2, percent) for job in held]
        async with database.transaction() as c:
            await jobs.save_progress(c, rows, at(60 + done))
        for job in held:
            now = await get(database, job)
            assert (now.phase, now.bytes_done, now.bytes_total) == (f"phase {done}", done, 2)
            assert (now.percent, now.lease_until) == (shown, at(60 + done))


async def test_progress_does_not_touch_a_final_job(database: Database) -> None:
    record = a_job()
    await put(database, record)
    async with database.transaction() as c:
        held = await claimed(c, record)
        done = await jobs.move_job(
            c, record.id, [JobState.RUNNING], JobState.FAIL, fence=None, values={"error_reason": "X"}
        )
        await jobs.save_progress(c, [JobProgress(record.id, held.fence, "late", 1, 1, 100.0)], at(99))
        await jobs.save_progress(c, [], at(99))
    assert await get(database, record) == done


async def test_the_fence_is_required_of_the_run_that_holds_the_job(database: Database) -> None:
    record = a_job()
    await put(database, record)
    async with database.transaction() as c:
        with pytest.raises(Conflict):
            await jobs.require_fence(c, record.id, 0)  # nobody runs it
        zombie = await claimed(c, record)
        await jobs.require_fence(c, record.id, zombie.fence)
        current = await claimed(c, record)
        with pytest.raises(Conflict, match="taken over"):
            await jobs.require_fence(c, record.id, zombie.fence)
        await jobs.move_job(c, record.id, [JobState.RUNNING], JobState.CANCELLING, fence=None, values={})
        await jobs.require_fence(c, record.id, current.fence)
        await jobs.move_job(c, record.id, [JobState.CANCELLING], JobState.CANCELLED, fence=None, values={})
        with pytest.raises(Conflict):
            await jobs.require_fence(c, record.id, current.fence)


async def test_only_jobs_that_ended_long_ago_are_forgotten(database: Database) -> None:
    old, recent = (a_job(state=JobState.SUCCESS, finished_at=at(second)) for second in (10, 20))
    failed, running = a_job(state=JobState.FAIL, finished_at=at(5)), a_job(state=JobState.RUNNING)
    await put(database, old, recent, failed, running)
    async with database.transaction() as c:
        assert [await jobs.forget_jobs(c, at(20), 1) for _ in range(3)] == [1, 1, 0]
    async with database.reading() as c:
        left = await jobs.list_jobs(c, JobQuery(project_id="lab"), 10, None)
    assert {record.id for record in left} == {recent.id, running.id}


async def test_a_lease_can_be_ignored(database: Database) -> None:
    record = a_job()
    await put(database, record)
    assert await claim(database, record, "first", at(0)) is not None
    assert await claim(database, record, "second", at(1)) is None
    async with database.transaction() as c:
        taken = await jobs.claim_job(c, record.id, "second", at(20), at(1), ignore_leases=True)
        assert await jobs.is_unfinished(c, record.id)
        assert not await jobs.is_unfinished(c, new_id())
    assert taken is not None
    assert (taken.owner, taken.fence) == ("second", 2)
