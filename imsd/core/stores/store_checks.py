"""Checks of stores: the request becomes a job, of the project in which the operator asks."""

from __future__ import annotations

from imsd.contract import FailedPrecondition
from imsd.core import requests
from imsd.core.dispatcher import Dispatcher
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobKind, JobRecord, JobState


class StoreChecks:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher

    async def start(self, key: RequestKey, store: str) -> str:
        """Start a CHECK_STORE job and return its id; the first one's when ``key`` was used before.

        Of the default store if ``store`` is empty. Raises NotFound (STORE_NOT_FOUND), Unavailable
        (DRIVER_NOT_READY), FailedPrecondition (the store is being checked).
        """
        store = self._runtime.stores.choose(store)
        job = JobRecord(
            id=self._runtime.new_id(),
            project_id=key.project_id,
            kind=JobKind.CHECK_STORE,
            state=JobState.INIT,
            spec={"store": store},
            created_at=self._runtime.clock(),
        )
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            for each in await job_rows.unfinished_jobs(c):
                if each.kind is JobKind.CHECK_STORE and each.spec["store"] == store:
                    raise FailedPrecondition(
                        f"the store {store!r} is being checked",
                        field="store",
                        hint=f"wait for job {each.id} of project {each.project_id}",
                    )
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id
