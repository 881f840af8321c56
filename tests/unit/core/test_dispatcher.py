"""Jobs run, wait, fail, are cancelled and are taken up again: against a real database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import ImsError, LimitExceeded, Unavailable
from imsd.core import dispatcher as dispatcher_module
from imsd.core.background import Background
from imsd.core.dispatcher import Dispatcher
from imsd.core.job_board import JobBoard
from imsd.core.job_run import JobRun, Workflow
from imsd.core.jobs import Jobs, JobView
from imsd.core.page_token import PageTokens
from imsd.core.runtime import Runtime, ServiceLimits
from imsd.metadata import jobs as job_rows
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database
from imsd.metadata.records import JobKind, JobRecord, JobState


def now() -> datetime:
    return datetime.now(UTC)


class Scripted(Workflow):
    """Does what the test says, and notes what is undone."""

    def __init__(self, work: Callable[[JobRun], Awaitable[None]]) -> None:
        self._work = work
        self.undone: list[str] = []
        self.cleaned_up: list[JobState] = []
        self.clean_up_step: Callable[[], Awaitable[None]] | None = None

    async def run(self, run: JobRun) -> None:
        await self._work(run)
        async with run.runtime.database.transaction() as c:
            await run.succeed(c, {"answer": 42})

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        self.undone.append(error.reason if error else "CANCELLED")

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        self.cleaned_up.append(state)
        if self.clean_up_step:
            await self.clean_up_step()


class Service:
    """A dispatcher with one slot, its board and the jobs as a caller sees them."""

    def __init__(self, database: Database, work: Callable[[JobRun], Awaitable[None]]) -> None:
        self.runtime = Runtime(
            database=database,
            index=SqlChunkIndex(database, now),
            stores=None,  # type: ignore[arg-type]  # no job of this test touches a store
            pool=DecodePool(1),
            background=Background(),
            tokens=PageTokens(b"x" * 32),
            limits=ServiceLimits(
                max_virtual_size_bytes=1,
                max_upload_size_bytes=1,
                staging_quota_bytes=1,
                upload_part_bytes=1,
                upload_expiry=timedelta(hours=1),
                max_running_create_jobs=1,
            ),
            region="local",
            service_id=str(uuid.uuid4()),
            instance_id=str(uuid.uuid4()),
            clock=now,
            new_id=lambda: str(uuid.uuid4()),
        )
        self.workflow = Scripted(work)
        board = JobBoard()
        self.dispatcher = Dispatcher(self.runtime, board, {JobKind.CREATE_IMAGE: self.workflow})
        self.jobs = Jobs(self.runtime, board, self.dispatcher)

    async def add(self, project_id: str = "default") -> str:
        record = JobRecord(
            id=str(uuid.uuid4()),
            project_id=project_id,
            kind=JobKind.CREATE_IMAGE,
            state=JobState.INIT,
            spec={},
            created_at=now(),
        )
        async with self.runtime.database.transaction() as c:
            await job_rows.insert_job(c, record)
        self.dispatcher.dispatch(record.id, record.kind)
        return record.id

    async def end_of(self, job_id: str) -> JobView:
        views = [view async for view in self.jobs.watch("default", job_id)]
        return views[-1]


@pytest.fixture
async def serve(database: Database) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    started: list[Service] = []

    async def start(work: Callable[[JobRun], Awaitable[None]]) -> Service:
        service = Service(database, work)
        started.append(service)
        await service.dispatcher.start()
        return service

    yield start
    for service in started:
        await service.dispatcher.stop(0)
        service.runtime.pool.close()


async def nothing(_: JobRun) -> None:
    return None


async def forever(_: JobRun) -> None:
    await asyncio.Event().wait()


async def is_running(service: Service, job_id: str) -> None:
    while (await service.jobs.get("default", job_id)).record.state is not JobState.RUNNING:
        await asyncio.sleep(0.01)


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


async def test_a_cancellation_survives_the_daemon(database: Database, serve: Any) -> None:
    older = await serve(forever)
    job_id = await older.add()
    await is_running(older, job_id)
    await older.dispatcher.stop(0)
    async with database.transaction() as c:
        await job_rows.move_job(c, job_id, [JobState.RUNNING], JobState.CANCELLING, fence=None, values={})
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


async def is_free(service: Service) -> None:
    """Until no job is being looked after."""
    while service.dispatcher._supervisors:
        await asyncio.sleep(0.01)


async def state_of(service: Service, job_id: str) -> JobState:
    return (await service.jobs.get("default", job_id)).record.state


def failing_once(error: Exception) -> Callable[[], Awaitable[None]]:
    left = [error]

    async def step() -> None:
        if left:
            raise left.pop()

    return step


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
    busy = failing_once(OperationalError("UPDATE job", {}, Exception("database is locked")))
    claim = job_rows.claim_job

    async def claim_later(*args: Any, **options: Any) -> JobRecord | None:
        await busy()
        return await claim(*args, **options)

    monkeypatch.setattr(job_rows, "claim_job", claim_later)
    assert (await service.end_of(await service.add())).record.state is JobState.SUCCESS


async def test_the_end_of_a_job_is_recorded_again_when_the_database_was_busy(
    serve: Any, monkeypatch: Any
) -> None:
    async def fail(_: JobRun) -> None:
        raise LimitExceeded("the store is full", reason="CAPACITY_EXHAUSTED")

    service = await serve(fail)
    busy = failing_once(OperationalError("UPDATE job", {}, Exception("database is locked")))
    move = job_rows.move_job

    async def move_later(*args: Any, **options: Any) -> JobRecord | None:
        await busy()
        return await move(*args, **options)

    monkeypatch.setattr(job_rows, "move_job", move_later)
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
    service = await serve(forever)
    job_id = await service.add()
    await is_running(service, job_id)
    await service.dispatcher.stop(0)
    async with database.transaction() as c:
        await job_rows.move_job(c, job_id, [JobState.RUNNING], JobState.CANCELLING, fence=None, values={})
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
