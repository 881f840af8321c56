"""Jobs run, wait, fail, are cancelled and are taken up again: against a real database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from imsd.config_loading import load_config
from imsd.contract import LimitExceeded
from imsd.core.job_run import JobRun
from imsd.metadata.database import Database
from imsd.metadata.records import JobState
from tests.unit.core.dispatcher_world import forever, is_running, left_cancelling, nothing


async def test_a_job_runs_to_success(serve: Any) -> None:
    service = await serve(nothing)
    view = await service.end_of(await service.add())
    assert view.record.state is JobState.SUCCESS
    assert view.record.percent == 100.0
    assert view.record.result == {"answer": 42}
    assert view.record.attempt == 1
    assert service.workflow.undone == []


async def test_a_failure_is_told_and_undone(serve: Any) -> None:
    async def fail(_: JobRun) -> None:
        raise LimitExceeded("the store is full", reason="CAPACITY_EXHAUSTED", hint="add a disk")

    service = await serve(fail)
    record = (await service.end_of(await service.add())).record
    assert record.state is JobState.FAIL
    assert (record.error_reason, record.error_message) == ("CAPACITY_EXHAUSTED", "the store is full")
    assert record.error_hint == "add a disk"
    assert service.workflow.undone == ["CAPACITY_EXHAUSTED"]


async def test_a_failed_job_keeps_the_phase_it_reached_and_how_far_it_came(serve: Any) -> None:
    async def fail_half_way(run: JobRun) -> None:
        run.enter("store", 100, (0.0, 90.0))
        run.advance(50)
        raise LimitExceeded("the store is full", reason="CAPACITY_EXHAUSTED")

    service = await serve(fail_half_way)
    record = (await service.end_of(await service.add())).record
    assert (record.phase, record.bytes_done, record.bytes_total) == ("store", 50, 100)
    assert record.percent == 45.0


async def test_a_job_that_ended_well_keeps_the_bytes_it_worked_on(serve: Any) -> None:
    async def steps(run: JobRun) -> None:
        run.enter("store", 100, (0.0, 90.0))
        run.advance(100)
        run.enter("commit", 0, (90.0, 100.0))

    service = await serve(steps)
    record = (await service.end_of(await service.add())).record
    assert (record.phase, record.bytes_done, record.bytes_total) == ("done", 100, 100)


async def test_a_cancelled_job_keeps_how_far_it_came(serve: Any) -> None:
    async def store_forever(run: JobRun) -> None:
        run.enter("store", 100, (0.0, 90.0))
        run.advance(30)
        await forever(run)

    service = await serve(store_forever)
    job_id = await service.add()
    while (await service.jobs.get("default", job_id)).record.bytes_done != 30:
        await asyncio.sleep(0.01)
    await service.jobs.cancel("default", job_id)
    record = (await service.end_of(job_id)).record
    assert (record.phase, record.bytes_done, record.bytes_total) == ("done", 30, 100)
    assert record.percent == 27.0


async def test_a_defect_fails_the_job_without_telling_its_text(serve: Any) -> None:
    async def defect(_: JobRun) -> None:
        raise ZeroDivisionError("secret")

    service = await serve(defect)
    record = (await service.end_of(await service.add())).record
    assert record.state is JobState.FAIL
    assert record.error_reason == "INTERNAL"
    assert "secret" not in record.error_message


async def test_a_running_job_is_cancelled_and_undone(serve: Any) -> None:
    service = await serve(forever)
    job_id = await service.add()
    await is_running(service, job_id)
    await service.jobs.cancel("default", job_id)
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    assert service.workflow.undone == ["CANCELLED"]


async def test_cancelling_a_final_job_changes_nothing(serve: Any) -> None:
    service = await serve(nothing)
    job_id = await service.add()
    await service.end_of(job_id)
    assert (await service.jobs.cancel("default", job_id)).record.state is JobState.SUCCESS


async def test_jobs_wait_for_a_slot_and_can_be_cancelled_there(serve: Any) -> None:
    service = await serve(forever)
    first, second, third = [await service.add() for _ in range(3)]
    await is_running(service, first)
    views = [await service.jobs.get("default", job_id) for job_id in (second, third)]
    assert [view.queue_position for view in views] == [1, 2]
    await service.jobs.cancel("default", second)
    assert (await service.end_of(second)).record.state is JobState.CANCELLED
    assert (await service.jobs.get("default", third)).queue_position == 1


async def test_table_5_1_maximum_number_of_concurrent_tasks_for_creating_private_images(serve: Any) -> None:
    """Forty run at once, and more wait in their order."""
    most = load_config(Path("/dev/null")).config.max_running_create_jobs
    assert most == 40
    may_end = asyncio.Event()
    running = 0
    counts: list[int] = []

    async def work(_: JobRun) -> None:
        nonlocal running
        running += 1
        counts.append(running)
        await may_end.wait()
        running -= 1

    service = await serve(work, slots=most)
    jobs = [await service.add() for _ in range(most + 6)]
    while running < most:
        await asyncio.sleep(0.01)
    positions = [(await service.jobs.get("default", job_id)).queue_position for job_id in jobs]
    assert positions == [0] * most + [1, 2, 3, 4, 5, 6]
    may_end.set()
    for job_id in jobs:
        assert (await service.end_of(job_id)).record.state is JobState.SUCCESS
    assert max(counts) == most


async def test_a_job_put_aside_at_the_stop_goes_on_at_the_next_start(database: Database, serve: Any) -> None:
    older = await serve(forever)
    job_id = await older.add()
    await is_running(older, job_id)
    await older.dispatcher.stop(0)
    assert (await older.jobs.get("default", job_id)).record.state is JobState.RUNNING
    newer = await serve(nothing)
    record = (await newer.end_of(job_id)).record
    assert record.state is JobState.SUCCESS
    assert record.attempt == 2
    assert older.workflow.undone == []


async def test_a_cancellation_survives_the_daemon(serve: Any) -> None:
    job_id = await left_cancelling(await serve(forever))
    newer = await serve(forever)
    assert (await newer.end_of(job_id)).record.state is JobState.CANCELLED
    assert newer.workflow.undone == ["CANCELLED"]


async def test_stopping_waits_for_jobs_that_end_in_time(serve: Any) -> None:
    async def short(_: JobRun) -> None:
        await asyncio.sleep(0.2)

    service = await serve(short)
    job_id = await service.add()
    await is_running(service, job_id)
    await service.dispatcher.stop(10)
    assert (await service.jobs.get("default", job_id)).record.state is JobState.SUCCESS


async def test_a_watcher_sees_progress_that_only_grows(serve: Any) -> None:
    async def steps(run: JobRun) -> None:
        run.enter("store", 100, (0.0, 90.0))
        for done in range(0, 101, 10):
            run.advance(done)
            await asyncio.sleep(0.05)

    service = await serve(steps)
    job_id = await service.add()
    percents = [view.record.percent async for view in service.jobs.watch("default", job_id)]
    assert percents == sorted(percents)
    assert len(percents) >= 3
    assert percents[-1] == 100.0
