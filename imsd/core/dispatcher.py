"""Who runs the jobs: in this process, woken at once, recovered at the start.

Each job has a supervisor task that claims it, runs its workflow as a task of its own and records how it
ended. Only the workflow's task is ever cancelled: by `cancel`, or by `stop` after the drain time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import Conflict, ImsError
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobKind, JobRecord, JobState

from .job_board import JobBoard
from .job_run import JobRun, Workflow
from .runtime import Runtime

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=15)
PROGRESS_SECONDS = 1.0

# Jobs that only read: few at once, so that they never crowd out the work people wait for.
MAX_RUNNING_VERIFY_JOBS = 4


class Dispatcher:
    """Runs jobs of this daemon; a kind has at most as many running as its slots, the others wait."""

    def __init__(self, runtime: Runtime, board: JobBoard, workflows: Mapping[JobKind, Workflow]) -> None:
        self._runtime = runtime
        self._board = board
        self._workflows = workflows
        self._slots = {
            JobKind.CREATE_IMAGE: asyncio.Semaphore(runtime.limits.max_running_create_jobs),
            JobKind.VERIFY_IMAGE: asyncio.Semaphore(MAX_RUNNING_VERIFY_JOBS),
        }
        self._supervisors: dict[str, asyncio.Task[None]] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._queues: dict[JobKind, list[str]] = {kind: [] for kind in self._slots}
        self._flusher: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self) -> int:
        """Take up every job that an earlier run of the daemon left; returns how many."""
        async with self._runtime.database.reading() as c:
            left = await job_rows.unfinished_jobs(c)
        for record in left:
            self.dispatch(record.id, record.kind)
        self._flusher = asyncio.create_task(self._flush_forever(), name="job progress")
        return len(left)

    def dispatch(self, job_id: str, kind: JobKind) -> None:
        """Run a job whose row exists, as soon as there is a slot."""
        if self._is_stopping or job_id in self._supervisors:
            return
        self._queues[kind].append(job_id)
        task = asyncio.create_task(self._supervise(job_id, kind), name=f"job {job_id}")
        self._supervisors[job_id] = task
        task.add_done_callback(lambda _: self._supervisors.pop(job_id, None))

    def cancel(self, job_id: str, kind: JobKind) -> None:
        """The job's row is CANCELLING: end its work, or clean up after it."""
        if work := self._work.get(job_id):
            work.cancel()
        elif job_id in self._queues[kind]:
            self._supervisors[job_id].cancel()
        else:
            self.dispatch(job_id, kind)

    def queue_position(self, job_id: str, kind: JobKind) -> int:
        """1 for the next one; 0 when the job does not wait."""
        queue = self._queues[kind]
        return queue.index(job_id) + 1 if job_id in queue else 0

    async def stop(self, drain_seconds: float) -> None:
        """Let running jobs finish within the drain time; the rest goes on at the next start."""
        self._is_stopping = True
        waiting = [self._supervisors[job] for queue in self._queues.values() for job in queue]
        for task in waiting:
            task.cancel()
        if self._supervisors:
            await asyncio.wait(list(self._supervisors.values()), timeout=drain_seconds)
        for work in list(self._work.values()):
            work.cancel()
        if self._supervisors:
            await asyncio.wait(list(self._supervisors.values()))
        if self._flusher:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)

    async def _supervise(self, job_id: str, kind: JobKind) -> None:
        has_slot = await self._wait_for_turn(job_id, kind)
        if self._is_stopping and not has_slot:
            return
        try:
            await self._run(job_id, kind)
        except Exception:
            # The row stays as it is: the next start of the daemon takes the job up again.
            log.exception("a job's end could not be recorded", job_id=job_id)
        finally:
            if has_slot:
                self._slots[kind].release()
            self._board.close(job_id)

    async def _wait_for_turn(self, job_id: str, kind: JobKind) -> bool:
        """Wait for a slot. A job cancelled while it waits needs none: it is only cleaned up after."""
        try:
            await self._slots[kind].acquire()
        except asyncio.CancelledError:
            if task := asyncio.current_task():
                task.uncancel()
            return False
        finally:
            self._queues[kind].remove(job_id)
        return True

    async def _run(self, job_id: str, kind: JobKind) -> None:
        clock = self._runtime.clock
        async with self._runtime.database.transaction() as c:
            # The state directory is locked by this daemon: whoever held a lease before is dead.
            record = await job_rows.claim_job(
                c, job_id, self._runtime.instance_id, clock() + LEASE, clock() + LEASE
            )
        if record is None:
            return
        run = JobRun(self._runtime, self._board, record)
        self._board.open(job_id, record.fence, record.percent)
        workflow = self._workflows[kind]
        structlog.contextvars.bind_contextvars(job_id=job_id)
        if record.state is JobState.CANCELLING:
            await self._end(run, workflow, None)
            return
        log.info("job runs", kind=kind, attempt=record.attempt)
        work = asyncio.create_task(workflow.run(run), name=f"work of job {job_id}")
        self._work[job_id] = work
        try:
            await asyncio.wait([work])
        finally:
            del self._work[job_id]
            self._board.work_ended(job_id)
        await self._record(run, workflow, work)
        if await self._is_cancelling(run):  # it came between the work's end and its record
            await self._end(run, workflow, None)

    async def _record(self, run: JobRun, workflow: Workflow, work: asyncio.Task[None]) -> None:
        error = None if work.cancelled() else work.exception()
        if error is None and not work.cancelled():
            log.info("job done")
            await workflow.clean_up(run)
        elif await self._is_cancelling(run):
            return
        elif work.cancelled():
            log.info("job put aside until the next start")
        elif isinstance(error, Conflict) and await self._is_taken_over(run):
            log.warning("job was taken over by another run")
        elif isinstance(error, ImsError):
            log.info("job failed", reason=error.reason, detail=error.message)
            await self._end(run, workflow, error)
        else:
            log.error("job failed by a defect", exc_info=error)
            hint = "the daemon's log has the details"
            await self._end(run, workflow, ImsError("an internal error ended the job", hint=hint))

    async def _end(self, run: JobRun, workflow: Workflow, error: ImsError | None) -> None:
        """FAIL in one transaction; CANCELLED only when everything the job made is gone."""
        database = self._runtime.database
        self._board.enter(run.record.id, "clean-up", 0, (0.0, 0.0))
        if error is not None:
            async with database.transaction() as c:
                if await self._move(c, run, JobState.RUNNING, JobState.FAIL, _failure(error)):
                    await workflow.undo(c, run, error)
            await workflow.clean_up(run)
            return
        async with database.transaction() as c:
            await workflow.undo(c, run, None)
        await workflow.clean_up(run)
        async with database.transaction() as c:
            await self._move(c, run, JobState.CANCELLING, JobState.CANCELLED, {"phase": "done"})
        log.info("job cancelled")

    async def _move(
        self, c: AsyncConnection, run: JobRun, old: JobState, new: JobState, values: dict[str, object]
    ) -> bool:
        values |= {"finished_at": self._runtime.clock()}
        moved = await job_rows.move_job(c, run.record.id, [old], new, fence=None, values=values)
        return moved is not None

    async def _current(self, run: JobRun) -> JobRecord | None:
        async with self._runtime.database.reading() as c:
            return await job_rows.get_job(c, run.record.project_id, run.record.id)

    async def _is_cancelling(self, run: JobRun) -> bool:
        record = await self._current(run)
        return record is not None and record.state is JobState.CANCELLING

    async def _is_taken_over(self, run: JobRun) -> bool:
        record = await self._current(run)
        return record is None or record.fence != run.record.fence

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


def _failure(error: ImsError) -> dict[str, object]:
    return {"error_reason": error.reason, "error_message": error.message, "error_hint": error.hint}
