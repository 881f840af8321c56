"""Slots of kinds and of projects, and the lines before them."""

from __future__ import annotations

import asyncio
from typing import Any

from imsd.core.job_run import JobRun
from imsd.core.job_slots import JobKey, JobSlots, SlotRule
from imsd.metadata.records import JobKind, JobState
from tests.unit.core.dispatcher_world import forever, is_running

COPY = JobKind.COPY_IMAGE
RULES = {COPY: SlotRule(4, of_project=2), JobKind.VERIFY_IMAGE: SlotRule(1)}


def a_copy(job_id: str, project_id: str = "lab") -> JobKey:
    return JobKey(job_id, COPY, project_id)


async def test_a_project_has_its_own_slots_and_its_own_line() -> None:
    slots = JobSlots(RULES)
    jobs = [a_copy(f"lab-{n}") for n in range(4)] + [a_copy(f"web-{n}", "web") for n in range(3)]
    for job in jobs:
        slots.join(job)
    assert [slots.position(job) for job in jobs] == [1, 2, 3, 4, 1, 2, 3]
    taken = [await slots.take(job) for job in (*jobs[:2], *jobs[4:6])]
    for job in (*jobs[:2], *jobs[4:6]):
        slots.leave(job)
    assert [slots.position(job) for job in jobs] == [0, 0, 1, 2, 0, 0, 1]
    waiting = asyncio.create_task(slots.take(jobs[2]))
    await asyncio.sleep(0)
    assert not waiting.done()
    taken[0]()
    give_back = await waiting
    for each in (give_back, *taken[1:]):
        each()
    for job in jobs:
        slots.leave(job)
    assert not slots._lines
    assert not slots._of_projects


async def test_whoever_gives_up_keeps_no_slot_of_its_project() -> None:
    slots = JobSlots({COPY: SlotRule(1, of_project=2)})
    give_back = await slots.take(a_copy("first"))
    waiting = asyncio.create_task(slots.take(a_copy("second")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    give_back()
    (await slots.take(a_copy("third")))()
    del waiting
    assert not slots._of_projects


async def test_kinds_without_slots_of_projects_share_one_line() -> None:
    slots = JobSlots(RULES)
    jobs = [JobKey(project_id, JobKind.VERIFY_IMAGE, project_id) for project_id in ("a", "b")]
    for job in jobs:
        slots.join(job)
    assert [slots.position(job) for job in jobs] == [1, 2]
    assert "a" in slots
    slots.leave(jobs[0])
    slots.leave(jobs[0])
    assert "a" not in slots
    assert slots.position(jobs[1]) == 1


async def test_five_copies_of_a_project_run_and_others_do_not_wait_for_them(serve: Any) -> None:
    """Table 5-4, Maximum number of concurrent replication tasks per tenant: 5."""
    service = await serve(forever, slots=40)
    jobs = [await service.add(kind=COPY) for _ in range(8)]
    for job_id in jobs[:5]:
        await is_running(service, job_id)
    other = await service.add("web", kind=COPY)
    while (await service.jobs.get("web", other)).record.state is not JobState.RUNNING:
        await asyncio.sleep(0.01)
    waiting = [await service.jobs.get("default", job_id) for job_id in jobs[5:]]
    assert [view.record.state for view in waiting] == [JobState.INIT] * 3
    assert [view.queue_position for view in waiting] == [1, 2, 3]
    await service.jobs.cancel("default", jobs[5])
    assert (await service.end_of(jobs[5])).record.state is JobState.CANCELLED
    await service.jobs.cancel("default", jobs[0])
    await is_running(service, jobs[6])


async def test_jobs_of_two_kinds_do_not_wait_for_each_other(serve: Any) -> None:
    may_end = asyncio.Event()

    async def work(run: JobRun) -> None:
        if run.record.kind is JobKind.CREATE_IMAGE:
            await may_end.wait()

    service = await serve(work)
    first = await service.add()
    assert (await service.end_of(await service.add(kind=COPY))).record.state is JobState.SUCCESS
    may_end.set()
    assert (await service.end_of(first)).record.state is JobState.SUCCESS
