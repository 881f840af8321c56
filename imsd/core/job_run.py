"""One run of a job: what a workflow works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, ImsError
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobRecord, JobState

from .job_board import JobBoard
from .runtime import Runtime


class JobRun:
    """A claimed job. Everything it changes checks its fence, so that a zombie does no harm."""

    def __init__(self, runtime: Runtime, board: JobBoard, record: JobRecord) -> None:
        self.runtime = runtime
        self.record = record
        self.holder = Holder(HolderKind.JOB, record.id, record.fence)
        self._board = board
        self._begins_at = 0.0

    def begin_at(self, percent: float) -> None:
        """Something came before, up to ``percent``: from now on, spans are of what is left of the job."""
        self._begins_at = self._of_whole(percent)

    def enter(self, phase: str, bytes_total: int, span: tuple[float, float], bytes_done: int = 0) -> None:
        """Begin a phase that takes the whole job from ``span[0]`` to ``span[1]`` percent.

        ``bytes_done``: of the phase, by an earlier run.
        """
        low, high = map(self._of_whole, span)
        self._board.enter(self.record.id, phase, bytes_total, (low, high), bytes_done)

    def _of_whole(self, percent: float) -> float:
        return self._begins_at + percent * (100.0 - self._begins_at) / 100.0

    def advance(self, bytes_done: int) -> None:
        """Say how many bytes of the phase are done; cheap, call it as often as you like."""
        self._board.advance(self.record.id, bytes_done)

    def reached(self) -> dict[str, object]:
        """What the row of a job that failed says of its progress: where it stood."""
        live = self._board.find(self.record.id)
        if live is None:
            return {}
        return {
            "phase": live.phase,
            "bytes_done": live.bytes_done,
            "bytes_total": live.bytes_total,
            "percent": max(live.percent, self.record.percent),
        }

    def done(self) -> dict[str, object]:
        """What the row of a job that is done, or cancelled and cleaned up after, says of its progress."""
        values: dict[str, object] = {"phase": "done"}
        if live := self._board.find(self.record.id):
            values["bytes_done"], values["bytes_total"] = live.worked_on()
            values["percent"] = max(live.percent, self.record.percent)
        return values

    async def require_fence(self, c: AsyncConnection) -> None:
        """Raises Conflict when another run has taken the job over, or it is being cancelled."""
        await job_rows.require_fence(c, self.record.id, self.record.fence)

    async def succeed(self, c: AsyncConnection, result: Mapping[str, object]) -> None:
        """Make the job SUCCESS in the transaction that makes its effects visible."""
        moved = await job_rows.move_job(
            c,
            self.record.id,
            [JobState.RUNNING],
            JobState.SUCCESS,
            fence=self.record.fence,
            values=self.done()
            | {"result": dict(result), "percent": 100.0, "finished_at": self.runtime.clock()},
        )
        if moved is None:
            raise Conflict("the job is no longer this run's to finish")


class SubRun(JobRun):
    """A job that another one has in hand; its progress counts for that one, too."""

    def __init__(self, parent: JobRun, record: JobRecord, bytes_before: int, size_bytes: int) -> None:
        """``bytes_before``: of the parent's phase, done by other sub-jobs; ``size_bytes``: of this one."""
        super().__init__(parent.runtime, parent._board, record)
        self._parent = parent
        self._bytes_before = bytes_before
        self._size_bytes = size_bytes
        self._done_bytes = 0
        self._board.open(record.id, record.fence, record.percent)

    def advance(self, bytes_done: int) -> None:
        super().advance(bytes_done)
        live = self._board.find(self.record.id)
        if live and live.bytes_total:
            done = self._size_bytes * min(live.bytes_done, live.bytes_total) // live.bytes_total
            # What was unpacked is done, though it is yet to be stored.
            self._done_bytes = max(self._done_bytes, done)
            self._parent.advance(self._bytes_before + self._done_bytes)

    async def fail(self, c: AsyncConnection, error: ImsError) -> None:
        """Make the job FAIL. Raises Conflict."""
        values = self.reached() | failure(error) | {"finished_at": self.runtime.clock()}
        fence = self.record.fence
        if not await job_rows.move_job(
            c, self.record.id, [JobState.RUNNING], JobState.FAIL, fence=fence, values=values
        ):
            raise Conflict("the job is no longer this run's to fail")

    def close(self) -> None:
        """Its progress is not told any more."""
        self._board.close(self.record.id)


def failure(error: ImsError) -> dict[str, object]:
    """What the row of a job that failed says of it."""
    return {"error_reason": error.reason, "error_message": error.message, "error_hint": error.hint}


class Workflow(ABC):
    """What a kind of job does.

    `run` ends by `JobRun.succeed` in its last transaction. When it raises, or the job is cancelled,
    `undo` changes the rows in the transaction that records the end; it is called again after a crash.
    """

    @abstractmethod
    async def run(self, run: JobRun) -> None:
        """Do the work from the start; what an earlier run stored is found again by its digest."""

    @abstractmethod
    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        """Take back what the rows say of this job. ``error`` is None when it was cancelled."""

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Free what lies outside the database, after `undo`; idempotent, repeated until it succeeds.

        CANCELLING becomes CANCELLED when this returns; SUCCESS and FAIL are told already.
        """
        return None
