"""Jobs as a caller sees them: get, list, watch, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from imsd.contract import FailedPrecondition, NotFound, Unavailable
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobRecord, JobState
from imsd.metadata.states import JOB_NEXT_STATES

from . import checks
from .dispatcher import Dispatcher
from .job_board import JobBoard
from .runtime import Runtime

# A job that runs elsewhere, or a change that was missed, is seen after this long at the latest.
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class JobView:
    """A job's row with its newest progress; rate in bytes a second, ETA in seconds, 0 when unknown.

    ``image_ids``: of the images it makes or works on; ``sub_job_ids``: of the jobs that it has in hand.
    """

    record: JobRecord
    image_ids: Sequence[str] = ()
    sub_job_ids: Sequence[str] = ()
    rate: int = 0
    eta_seconds: int = 0
    queue_position: int = 0

    @property
    def is_final(self) -> bool:
        return not JOB_NEXT_STATES[self.record.state]


class Jobs:
    def __init__(self, runtime: Runtime, board: JobBoard, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._board = board
        self._dispatcher = dispatcher
        self._stopping = asyncio.Event()

    async def get(self, project_id: str, job_id: str) -> JobView:
        project_id, job_id = checks.project_id(project_id), checks.uuid("job_id", job_id)
        async with self._runtime.database.reading() as c:
            record = await job_rows.get_job(c, project_id, job_id)
            parts = await job_rows.sub_jobs(c, [job_id])
        if record is None:
            raise NotFound(
                f"there is no job {job_id} in project {project_id}", hint="list the jobs of the project"
            )
        return self._view(record, parts)

    async def list(
        self, query: job_rows.JobQuery, page_size: int, page_token: str
    ) -> tuple[Sequence[JobView], str]:
        """A page of jobs, newest first, and the token of the next one."""
        limit = checks.page_size(page_size)
        after = self._runtime.tokens.read(query, page_token)
        async with self._runtime.database.reading() as c:
            records = await job_rows.list_jobs(c, query, limit + 1, after)
            parts = await job_rows.sub_jobs(c, [record.id for record in records])
        token = ""
        if len(records) > limit:
            last = records[limit - 1]
            token = self._runtime.tokens.make(query, (last.created_at, last.id))
        return [self._view(record, parts) for record in records[:limit]], token

    async def watch(self, project_id: str, job_id: str) -> AsyncIterator[JobView]:
        """The newest state whenever it changed, ten times a second at most, until it is final."""
        await self.get(project_id, job_id)  # an id that does not exist leaves nothing on the board
        last: JobView | None = None
        while True:
            changed = self._board.change_of(job_id)
            view = await self.get(project_id, job_id)
            if view != last:
                yield view
            if view.is_final:
                return
            if self._stopping.is_set():
                raise Unavailable("the daemon is stopping", hint="watch again in a moment")
            last = view
            await self._board.pause(job_id)
            try:
                await asyncio.wait_for(changed.wait(), POLL_SECONDS)
            except TimeoutError:
                continue

    async def cancel(self, project_id: str, job_id: str) -> JobView:
        view = await self.get(project_id, job_id)
        if view.is_final:
            return view
        if view.record.parent_job_id:
            raise FailedPrecondition(
                "this job makes one disk of a package, of which all disks or none become images",
                hint=f"cancel job {view.record.parent_job_id}",
            )
        async with self._runtime.database.transaction() as c:
            moved = await job_rows.move_job(
                c,
                job_id,
                [JobState.INIT, JobState.RUNNING],
                JobState.CANCELLING,
                fence=None,
                values={},
            )
        if moved is not None:
            self._board.changed(job_id)
        view = await self.get(project_id, job_id)
        if view.record.state is JobState.CANCELLING:  # also when it was before: nobody may be at it
            self._dispatcher.cancel(view.record)
        return view

    def stop_watching(self) -> None:
        """End every watch: the daemon stops."""
        self._stopping.set()

    def _view(self, record: JobRecord, parts: Sequence[JobRecord]) -> JobView:
        """``parts``: of this job and perhaps of others."""
        own = sorted((part for part in parts if part.parent_job_id == record.id), key=number_of)
        asked: Sequence[str] = record.spec.get("image_ids", ())  # by a job on several images
        named = (record.image_id, *asked, *(part.image_id for part in own))
        image_ids = dict.fromkeys(filter(None, named))
        view = JobView(record, tuple(image_ids), tuple(part.id for part in own))
        if view.is_final:
            return view
        live = self._board.find(record.id)
        if live is None:
            return replace(view, queue_position=self._dispatcher.queue_position(record))
        current = replace(
            record,
            phase=live.phase,
            bytes_done=live.bytes_done,
            bytes_total=live.bytes_total,
            percent=max(live.percent, record.percent),
        )
        return replace(view, record=current, rate=live.rate(), eta_seconds=live.eta_seconds())


def number_of(sub_job: JobRecord) -> int:
    """Which disk of its package a sub-job makes an image of, 1 for the first."""
    return int(sub_job.spec.get("disk", 0))
