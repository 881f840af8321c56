"""Jobs on whole stores: of a kind, each store has one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition
from imsd.core import limits, requests
from imsd.core.dispatcher import Dispatcher
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobKind, JobRecord, JobState

# What a store has had of its own accord, and what was broken off, does not begin again at once.
AGAIN_AFTER = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class StoreWork:
    """``verb``: what a job of the kind does to its store; ``reason``: why a second one is refused."""

    kind: JobKind
    verb: str
    reason: str | None = None


CHECK = StoreWork(JobKind.CHECK_STORE, "checks")
SCRUB = StoreWork(JobKind.SCRUB_STORE, "scrubs", "SCRUB_RUNNING")
REPACK = StoreWork(JobKind.REPACK_STORE, "repacks", "REPACK_RUNNING")


class StoreJobs:
    """Starts the jobs of one kind; ``spec``: what a job is told beside its store."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, work: StoreWork) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._work = work

    async def start(self, key: RequestKey, store: str, **spec: object) -> str:
        """Start a job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest (REQUEST_ID_REUSED), Unavailable (DRIVER_NOT_READY), FailedPrecondition (the
        reason of the work).
        """
        self._runtime.stores.get(store)
        job = self._job(key.project_id, store, spec)
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            if running := await self._unfinished(c, store):
                raise FailedPrecondition(
                    f"job {running.id} {self._work.verb} the store {store!r} already",
                    reason=self._work.reason,
                    field="store",
                    hint=f"watch it with `imsctl job watch {running.id} --project {running.project_id}`",
                )
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def start_alone(self, c: AsyncConnection, store: str, **spec: object) -> bool:
        """Start a job that nobody asked for, unless the store has one; call it last in a transaction."""
        if await self._unfinished(c, store):
            return False
        job = self._job(limits.DEFAULT_PROJECT, store, spec)
        await job_rows.insert_job(c, job)
        self._dispatcher.dispatch(job)
        return True

    async def _unfinished(self, c: AsyncConnection, store: str) -> JobRecord | None:
        """The job that works on a store, or is to."""
        jobs = await job_rows.unfinished_jobs(c, self._work.kind)
        return next((job for job in jobs if job.spec["store"] == store), None)

    def _job(self, project_id: str, store: str, spec: dict[str, object]) -> JobRecord:
        return JobRecord(
            id=self._runtime.new_id(),
            project_id=project_id,
            kind=self._work.kind,
            state=JobState.INIT,
            spec={"store": store, **spec},
            created_at=self._runtime.clock(),
        )
