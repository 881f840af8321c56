"""Repacking of stores: starting it, when asked and when enough of a store is dead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from imsd.contract import FailedPrecondition
from imsd.core import checks, limits, requests
from imsd.core.dispatcher import Dispatcher
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import jobs as job_rows
from imsd.metadata import repacking
from imsd.metadata.records import JobKind, JobRecord, JobState

from .scrub_jobs import job_of_store

# Less than this is not worth a job of its own accord.
MIN_DEAD_BYTES = 64 << 20

# Between two jobs of its own accord for a store: what one could not empty would be tried again and again.
AGAIN_AFTER = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class NewRepacking:
    """``dead_percent``: packs of which at least so much is needed by nobody; None: as configured."""

    store: str
    dead_percent: int | None = None
    is_dry_run: bool = False


class RepackJobs:
    """``dead_percent``: as configured; 0: only when asked, for packs with `WHEN_ASKED` percent."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, dead_percent: int) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._dead_percent = dead_percent
        self._started: dict[str, datetime] = {}

    async def start(self, key: RequestKey, new: NewRepacking) -> str:
        """Start a REPACK_STORE job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest, Unavailable (DRIVER_NOT_READY), FailedPrecondition (REPACK_RUNNING).
        """
        percent = new.dead_percent if new.dead_percent is not None else self._dead_percent or WHEN_ASKED
        checks.number("dead_percent", percent, 1, 99)
        self._runtime.stores.get(new.store)
        job = self._job(key.project_id, new.store, percent, is_dry_run=new.is_dry_run)
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            if running := await job_of_store(c, JobKind.REPACK_STORE, new.store):
                raise FailedPrecondition(
                    f"job {running.id} repacks the store {new.store!r} already",
                    reason="REPACK_RUNNING",
                    field="store",
                    hint=f"watch it with `imsctl job watch {running.id} --project {running.project_id}`",
                )
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def start_if_due(self, store_name: str) -> None:
        """Start a job when packs are dead enough, and enough of them."""
        runtime, percent, now = self._runtime, self._dead_percent, self._runtime.clock()
        started = self._started.get(store_name)
        if not percent or (started and now - started < AGAIN_AFTER):
            return
        async with runtime.database.reading() as c:
            dead_bytes = await repacking.dead_bytes(c, store_name, percent)
        if dead_bytes < MIN_DEAD_BYTES:
            return
        job = self._job(limits.DEFAULT_PROJECT, store_name, percent, is_dry_run=False)
        async with runtime.database.transaction() as c:
            if await job_of_store(c, JobKind.REPACK_STORE, store_name):
                return
            await job_rows.insert_job(c, job)
            self._dispatcher.dispatch(job)
        self._started[store_name] = now

    def _job(self, project_id: str, store_name: str, percent: int, *, is_dry_run: bool) -> JobRecord:
        return JobRecord(
            id=self._runtime.new_id(),
            project_id=project_id,
            kind=JobKind.REPACK_STORE,
            state=JobState.INIT,
            spec={"store": store_name, "dead_percent": percent, "is_dry_run": is_dry_run},
            created_at=self._runtime.clock(),
        )


# Of a pack that is repacked when somebody asks and the configuration says nothing.
WHEN_ASKED = 60
