"""Jobs when the database is busy, work hangs, or another daemon takes over."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from imsd.contract import LimitExceeded, Unavailable
from imsd.core import dispatcher as dispatcher_module
from imsd.core.dispatcher import Dispatcher
from imsd.core.job_run import JobRun
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.records import JobKind, JobRecord, JobState
from tests.unit.core.dispatcher_world import (
    Service,
    forever,
    is_free,
    is_running,
    left_cancelling,
    nothing,
    now,
    state_of,
)


def failing_once(error: Exception) -> Callable[[], Awaitable[None]]:
    left = [error]

    async def step() -> None:
        if left:
            raise left.pop()

    return step


def is_busy_once(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """The database is locked when ``change``, a function of `job_rows`, is called for the first time."""
    busy = failing_once(OperationalError("UPDATE job", {}, Exception("database is locked")))
    make_change = getattr(job_rows, change)

    async def later(*args: Any, **options: Any) -> JobRecord | None:
        await busy()
        record: JobRecord | None = await make_change(*args, **options)
        return record

    monkeypatch.setattr(job_rows, change, later)


@pytest.mark.parametrize("error", [Unavailable("not now"), ZeroDivisionError()])
async def test_a_cancelled_job_is_cleaned_up_again_until_it_succeeds(serve: Any, error: Exception) -> None:
    service = await serve(forever)
    service.workflow.clean_up_step = failing_once(error)
    job_id = await service.add()
    await is_running(service, job_id)
    await service.jobs.cancel("default", job_id)
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    assert service.workflow.cleaned_up == [JobState.CANCELLING] * 2


async def test_a_job_is_claimed_again_when_the_database_was_busy(serve: Any, monkeypatch: Any) -> None:
    service = await serve(nothing)
    is_busy_once(monkeypatch, "claim_job")
    assert (await service.end_of(await service.add())).record.state is JobState.SUCCESS


async def test_the_end_of_a_job_is_recorded_again_when_the_database_was_busy(
    serve: Any, monkeypatch: Any
) -> None:
    async def fail(_: JobRun) -> None:
        raise LimitExceeded("the store is full", reason="CAPACITY_EXHAUSTED")

    service = await serve(fail)
    is_busy_once(monkeypatch, "move_job")
    record = (await service.end_of(await service.add())).record
    assert (record.state, record.error_reason) == (JobState.FAIL, "CAPACITY_EXHAUSTED")


async def test_a_clean_up_after_success_changes_nothing_and_holds_no_slot(serve: Any) -> None:
    service = await serve(nothing)
    never = asyncio.Event()

    async def stuck() -> None:
        await never.wait()

    service.workflow.clean_up_step = stuck
    first, second = await service.add(), await service.add()
    for job_id in (first, second):
        assert (await service.end_of(job_id)).record.state is JobState.SUCCESS
    never.set()
    service.workflow.clean_up_step = failing_once(Unavailable("not now"))
    third = await service.add()
    assert (await service.end_of(third)).record.state is JobState.SUCCESS
    await asyncio.wait_for(is_free(service), 10)
    assert await state_of(service, third) is JobState.SUCCESS
    assert service.workflow.cleaned_up == [JobState.SUCCESS] * 4


async def test_cancelling_again_takes_up_a_job_without_supervisor(database: Database, serve: Any) -> None:
    job_id = await left_cancelling(await serve(forever))
    idle = Service(database, forever)
    try:
        await idle.jobs.cancel("default", job_id)
        assert (await idle.end_of(job_id)).record.state is JobState.CANCELLED
    finally:
        await idle.dispatcher.stop(0)
        idle.runtime.pool.close()


async def test_cancelling_twice_does_not_break_into_the_work_that_lets_go(serve: Any) -> None:
    let_go: list[str] = []

    async def work(run: JobRun) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            let_go.append(run.record.id)

    service = await serve(work)
    job_id = await service.add()
    await is_running(service, job_id)
    await service.jobs.cancel("default", job_id)
    await service.jobs.cancel("default", job_id)
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    assert let_go == [job_id]


async def test_work_that_notices_its_cancellation_by_itself_ends_in_silence(
    serve: Any, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    may_notice = asyncio.Event()

    async def work(run: JobRun) -> None:
        await may_notice.wait()
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)

    service = await serve(work)
    job_id = await service.add()
    await is_running(service, job_id)
    cancel = service.dispatcher.cancel
    # The row is CANCELLING, the dispatcher does not know yet.
    monkeypatch.setattr(service.dispatcher, "cancel", lambda *_: None)
    await service.jobs.cancel("default", job_id)
    may_notice.set()
    while job_id in service.dispatcher._work:
        await asyncio.sleep(0.01)
    cancel((await service.jobs.get("default", job_id)).record)
    assert (await service.end_of(job_id)).record.state is JobState.CANCELLED
    await asyncio.wait_for(is_free(service), 10)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


class SlowClaim:
    """A claim that has happened, but whose caller does not know yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_made, self.may_return = asyncio.Event(), asyncio.Event()
        self._claim = Dispatcher._claim
        monkeypatch.setattr(Dispatcher, "_claim", self._slowly(self._claim))

    def _slowly(self, claim: Callable[..., Awaitable[JobRun | None]]) -> Callable[..., Awaitable[Any]]:
        async def slow(dispatcher: Dispatcher, job_id: str) -> JobRun | None:
            run = await claim(dispatcher, job_id)
            self.is_made.set()
            await self.may_return.wait()
            return run

        return slow


async def test_no_work_begins_after_the_stop(serve: Any, monkeypatch: Any) -> None:
    slow = SlowClaim(monkeypatch)
    begun: list[str] = []

    async def work(run: JobRun) -> None:
        begun.append(run.record.id)

    service = await serve(work)
    job_id = await service.add()
    await slow.is_made.wait()
    stopping = asyncio.create_task(service.dispatcher.stop(0))
    await asyncio.sleep(0.05)
    slow.may_return.set()
    await stopping
    assert begun == []
    assert await state_of(service, job_id) is JobState.RUNNING


async def test_a_job_cancelled_while_it_is_claimed_never_begins(serve: Any, monkeypatch: Any) -> None:
    slow = SlowClaim(monkeypatch)
    service = await serve(forever)
    job_id = await service.add()
    await slow.is_made.wait()
    await service.jobs.cancel("default", job_id)
    slow.may_return.set()
    ended = await asyncio.wait_for(service.end_of(job_id), 5)
    assert ended.record.state is JobState.CANCELLED


async def test_stopping_ends_even_when_work_does_not_let_go(serve: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(dispatcher_module, "LET_GO_SECONDS", 0.1)
    let_go = asyncio.Event()

    async def stubborn(_: JobRun) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    service = await serve(stubborn)
    job_id = await service.add()
    await is_running(service, job_id)
    await asyncio.wait_for(service.dispatcher.stop(0), 5)
    assert await state_of(service, job_id) is JobState.RUNNING
    let_go.set()
    await asyncio.sleep(0.05)


async def test_a_lease_is_respected_where_several_daemons_share_a_database(
    database: Database, serve: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Database, "is_embedded", False)
    monkeypatch.setattr(dispatcher_module, "LEASE", timedelta(seconds=0.5))
    record = JobRecord(
        id=str(uuid.uuid4()),
        project_id="default",
        kind=JobKind.CREATE_IMAGE,
        state=JobState.RUNNING,
        spec={},
        owner="another daemon",
        lease_until=now() + timedelta(seconds=1),
        created_at=now(),
    )
    async with database.transaction() as c:
        await job_rows.insert_job(c, record)
    begun: list[datetime] = []

    async def work(_: JobRun) -> None:
        begun.append(now())

    service = await serve(work)  # takes up what is left
    mine = await service.end_of(await service.add())
    assert mine.record.state is JobState.SUCCESS  # the other one's job keeps no slot
    assert (await service.end_of(record.id)).record.state is JobState.SUCCESS
    assert record.lease_until is not None
    assert begun[0] < record.lease_until <= begun[1]


async def test_a_run_that_was_taken_over_changes_nothing(database: Database, serve: Any) -> None:
    async def overtaken(run: JobRun) -> None:
        async with database.transaction() as c:
            await job_rows.claim_job(
                c, run.record.id, "another", now() + timedelta(1), now(), ignore_leases=True
            )
        raise LimitExceeded("too late to matter")

    service = await serve(overtaken)
    job_id = await service.add()
    await asyncio.wait_for(is_free(service), 10)
    assert await state_of(service, job_id) is JobState.RUNNING
    assert service.workflow.undone == []
    assert service.workflow.cleaned_up == []
