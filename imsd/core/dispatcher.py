"""Who runs the jobs: in this process, woken at once, recovered at the start.

Each job has a supervisor task that claims it, runs its workflow as a task of its own and records how it
ended. Only the workflow's task is ever cancelled: by `cancel`, or by `stop` after the drain time. What a
supervisor cannot do now (the database is busy, a store is out of reach) it tries again until it is done or
the daemon stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import Conflict, ImsError
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobKind, JobRecord, JobState

from .job_board import JobBoard
from .job_run import JobRun, Workflow, failure
from .job_slots import JobKey, JobSlots, slot_rules
from .runtime import Runtime

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=15)
PROGRESS_SECONDS = 1.0

# A step that failed is tried again after this long, then after twice as long, and so on.
FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 30.0

# How long cancelled work may take to let go when the daemon stops.
LET_GO_SECONDS = 10.0

T = TypeVar("T")


class Dispatcher:
    """Runs jobs of this daemon, as many at once as have slots, see `JobSlots`; the others wait."""

    def __init__(self, runtime: Runtime, board: JobBoard, workflows: Mapping[JobKind, Workflow]) -> None:
        self._runtime = runtime
        self._board = board
        self._workflows = workflows
        self._slots = JobSlots(slot_rules(runtime.limits))
        self._supervisors: dict[str, asyncio.Task[None]] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._flusher: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> int:
        """Take up every job that an earlier run of the daemon left; returns how many."""
        async with self._runtime.database.reading() as c:
            # What a parent has in hand is its own to go on with.
            left = [each for each in await job_rows.unfinished_jobs(c) if not each.parent_job_id]
        for record in left:
            self.dispatch(record)
        self._flusher = asyncio.create_task(self._flush_forever(), name="job progress")
        return len(left)

    def dispatch(self, record: JobRecord) -> None:
        """Run a job as soon as there is a slot.

        Call it last in the transaction that makes the row. It begins when that has ended, and a job whose row
        was not written is forgotten; after the commit, a caller that leaves meanwhile would never come to it.
        """
        job = JobKey.of(record)
        if self._stopping.is_set() or job.id in self._supervisors:
            return
        self._slots.join(job)
        task = asyncio.create_task(self._supervise(job), name=f"job {job.id}")
        self._supervisors[job.id] = task
        task.add_done_callback(partial(self._supervision_ended, job))

    def cancel(self, record: JobRecord) -> None:
        """The job's row is CANCELLING: end its work, or clean up after it. Repeating it does no harm."""
        self._cancelled.add(record.id)
        if work := self._work.get(record.id):
            _cancel_once(work)
        elif record.id in self._slots:
            _cancel_once(self._supervisors[record.id])
        else:
            self.dispatch(record)
        if record.id not in self._supervisors:  # the daemon stops: the next start goes on
            self._cancelled.discard(record.id)

    def queue_position(self, record: JobRecord) -> int:
        """1 for the next one; 0 when the job does not wait."""
        return self._slots.position(JobKey.of(record))

    async def stop(self, drain_seconds: float) -> None:
        """Let running jobs finish within the drain time; the rest goes on at the next start.

        Ends `LET_GO_SECONDS` after the drain time, or a moment later, whatever the jobs do.
        """
        self._stopping.set()
        for job_id, supervisor in self._supervisors.items():
            if job_id in self._slots:
                _cancel_once(supervisor)
        await self._wait_for_supervisors(drain_seconds)
        for work in self._work.values():
            _cancel_once(work)
        await self._wait_for_supervisors(LET_GO_SECONDS)
        if self._supervisors:
            log.error("jobs do not let go; they go on at the next start", job_ids=list(self._supervisors))
            for supervisor in self._supervisors.values():
                supervisor.cancel()
            await self._wait_for_supervisors(1.0)
        if self._flusher:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)

    async def _wait_for_supervisors(self, seconds: float) -> None:
        if self._supervisors:
            await asyncio.wait(list(self._supervisors.values()), timeout=seconds)
            await asyncio.sleep(0)  # let their done callbacks run

    def _supervision_ended(self, job: JobKey, supervisor: asyncio.Task[None]) -> None:
        if not supervisor.cancelled() and supervisor.exception():
            log.error("a job lost its supervisor", job_id=job.id, exc_info=supervisor.exception())
        del self._supervisors[job.id]
        self._slots.leave(job)
        self._cancelled.discard(job.id)
        self._board.close(job.id)

    async def _supervise(self, job: JobKey) -> None:
        structlog.contextvars.bind_contextvars(job_id=job.id)
        workflow, run = self._workflows[job.kind], None
        work: asyncio.Task[None] | None = None
        while run is None:
            give_back = await self._wait_for_turn(job)
            try:
                if self._stopping.is_set():
                    return
                run = await self._persist(partial(self._claim, job.id))
                if run is not None and self._may_work(run):
                    work = await self._do_work(run, workflow)
            finally:
                give_back()
            if run is None and await self._is_over(job.id):
                return
        await self._persist(partial(self._settle, run, workflow, work))

    async def _wait_for_turn(self, job: JobKey) -> Callable[[], None]:
        """Wait for a slot; returns what gives it back.

        A job cancelled while it waits needs none: it is only cleaned up after.
        """
        self._slots.join(job)
        try:
            return await self._slots.take(job)
        except asyncio.CancelledError:
            if task := asyncio.current_task():
                task.uncancel()
            return lambda: None
        finally:
            self._slots.leave(job)

    async def _claim(self, job_id: str) -> JobRun | None:
        """None when the job is final, or runs in another daemon."""
        database, now = self._runtime.database, self._runtime.clock()
        async with database.transaction() as c:
            record = await job_rows.claim_job(
                c,
                job_id,
                self._runtime.instance_id,
                now + LEASE,
                now,
                # Only the daemon that has locked the state directory uses an embedded database: whoever
                # held a lease before is dead.
                ignore_leases=database.is_embedded,
            )
        if record is None:
            return None
        self._board.open(job_id, record.fence, record.percent)
        return JobRun(self._runtime, self._board, record)

    async def _is_over(self, job_id: str) -> bool:
        """After a claim in vain: whether to give up. Else another daemon holds the job, and may yet die."""
        is_unfinished = await self._persist(partial(self._is_unfinished, job_id))
        return not is_unfinished or await self._stops_within(LEASE.total_seconds())

    async def _is_unfinished(self, job_id: str) -> bool:
        async with self._runtime.database.reading() as c:
            return await job_rows.is_unfinished(c, job_id)

    def _may_work(self, run: JobRun) -> bool:
        """Whether the job was neither cancelled nor put aside while it was being claimed."""
        is_cancelled = run.record.state is JobState.CANCELLING or run.record.id in self._cancelled
        return not is_cancelled and not self._stopping.is_set()

    async def _do_work(self, run: JobRun, workflow: Workflow) -> asyncio.Task[None]:
        job_id = run.record.id
        log.info("job runs", kind=run.record.kind, attempt=run.record.attempt)
        work = asyncio.create_task(workflow.run(run), name=f"work of job {job_id}")
        self._work[job_id] = work
        try:
            await asyncio.wait([work])
        finally:
            del self._work[job_id]
            self._board.work_ended(job_id)
        # Asked of every failure, also of one that no longer counts because the job was cancelled meanwhile.
        if not work.cancelled() and (error := work.exception()) and not isinstance(error, ImsError):
            log.error("the work of a job failed by a defect", exc_info=error)
        return work

    async def _settle(self, run: JobRun, workflow: Workflow, work: asyncio.Task[None] | None) -> None:
        """Bring the row to its final state, and free what the job leaves; may be repeated after any error."""
        record = await self._current(run)
        if record is None or record.fence != run.record.fence:
            log.warning("job was taken over by another run")
            return
        state = record.state
        if state is JobState.CANCELLING:
            await self._end_cancelled(run, workflow)
            return
        if state is JobState.RUNNING:
            if work is None or (work.cancelled() and self._stopping.is_set()):
                log.info("job put aside until the next start")
                return
            state = await self._fail(run, workflow, work)
        # The outcome is told and stands, whatever becomes of the clean-up.
        self._board.close(run.record.id)
        await workflow.clean_up(run, state)
        log.info("job ended", state=state)

    async def _fail(self, run: JobRun, workflow: Workflow, work: asyncio.Task[None]) -> JobState:
        """FAIL and its undoing in one transaction."""
        cause = None if work.cancelled() else work.exception()
        hint = "the daemon's log has the details"
        error = (
            cause if isinstance(cause, ImsError) else ImsError("an internal error ended the job", hint=hint)
        )
        async with self._runtime.database.transaction() as c:
            await self._move(c, run, JobState.RUNNING, JobState.FAIL, run.reached() | failure(error))
            await workflow.undo(c, run, error)
        log.info("job failed", reason=error.reason, detail=error.message)
        return JobState.FAIL

    async def _end_cancelled(self, run: JobRun, workflow: Workflow) -> None:
        """CANCELLED only when everything the job made is gone."""
        database = self._runtime.database
        self._board.enter(run.record.id, "clean-up", 0, (0.0, 0.0))
        async with database.transaction() as c:
            await run.require_fence(c)
            await workflow.undo(c, run, None)
        await workflow.clean_up(run, JobState.CANCELLING)
        async with database.transaction() as c:
            await self._move(c, run, JobState.CANCELLING, JobState.CANCELLED, run.done())
        log.info("job cancelled")

    async def _move(
        self, c: AsyncConnection, run: JobRun, old: JobState, new: JobState, values: dict[str, object]
    ) -> None:
        """Raises Conflict when the job is not ``old`` any more, or not this run's."""
        values |= {"finished_at": self._runtime.clock()}
        fence = run.record.fence
        if await job_rows.move_job(c, run.record.id, [old], new, fence=fence, values=values) is None:
            raise Conflict(f"the job is no longer this run's, or no longer {old}")

    async def _current(self, run: JobRun) -> JobRecord | None:
        async with self._runtime.database.reading() as c:
            return await job_rows.get_job(c, run.record.project_id, run.record.id)

    async def _persist(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """What ``step`` returns, however often it must be tried; None when the daemon stops first."""
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                return await step()
            except ImsError as error:
                log.warning("job waits", reason=error.reason, detail=error.message, retry_seconds=delay)
            except Exception:
                log.exception("a step of a job failed and will be repeated", retry_seconds=delay)
            if await self._stops_within(delay):
                return None
            delay = min(2 * delay, MAX_RETRY_SECONDS)

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            rows = [
                job_rows.JobProgress(
                    job_id, live.fence, live.phase, live.bytes_done, live.bytes_total, live.percent
                )
                for job_id, live in self._board.all_live().items()
            ]
            if not rows:
                continue
            try:
                async with self._runtime.database.transaction() as c:
                    await job_rows.save_progress(c, rows, self._runtime.clock() + LEASE)
            except Exception:
                log.exception("progress could not be saved")


def _cancel_once(task: asyncio.Task[None]) -> None:
    # A second cancellation would break into the clean-up that the first one began.
    if not task.cancelling():
        task.cancel()
