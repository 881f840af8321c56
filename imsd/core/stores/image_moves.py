"""Moving an image into another store: the request, checked, becomes a job."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition
from imsd.core import checks, requests
from imsd.core.dispatcher import Dispatcher
from imsd.core.image_access import require_active
from imsd.core.image_changes import ImageRef, image_at
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import ImageRecord, JobKind, JobRecord, JobState


@dataclass(frozen=True, slots=True)
class NewMove:
    """Where an image is to lie: the configured name of a store."""

    image: ImageRef
    store: str


class ImageMoves:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher

    async def start(self, key: RequestKey, new: NewMove) -> str:
        """Start a MOVE_IMAGE job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest, NotFound (also STORE_NOT_FOUND), PermissionDenied (NOT_OWNER), Conflict (etag),
        FailedPrecondition, Unavailable (DRIVER_NOT_READY).
        """
        if not new.store:
            checks.refuse("store", "the request names no store", "`imsctl store list` shows them")
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            image = await image_at(c, new.image)
            require_active(image)
            store = self._runtime.stores.choose(new.store)
            await self._require_movable(c, image, store)
            job = self._job(image, store)
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def _require_movable(self, c: AsyncConnection, image: ImageRecord, store: str) -> None:
        if image.store == store:
            raise FailedPrecondition(
                f"image {image.name!r} lies in the store {store!r} already",
                field="store",
                hint="name another store",
            )
        self._runtime.stores.get(image.store)
        if moving := await job_rows.list_jobs(c, _moving(image), 1, None):
            raise FailedPrecondition(
                f"image {image.name!r} is being moved to the store {moving[0].spec['store']!r}",
                field="image_id",
                hint=f"wait for job {moving[0].id}, or cancel it first",
            )

    def _job(self, image: ImageRecord, store: str) -> JobRecord:
        return JobRecord(
            id=self._runtime.new_id(),
            project_id=image.project_id,
            kind=JobKind.MOVE_IMAGE,
            state=JobState.INIT,
            spec={"store": store, "from_store": image.store},
            image_id=image.id,
            created_at=self._runtime.clock(),
        )


def _moving(image: ImageRecord) -> job_rows.JobQuery:
    return job_rows.JobQuery(
        project_id=image.project_id,
        states=(JobState.INIT, JobState.RUNNING, JobState.CANCELLING),
        kinds=(JobKind.MOVE_IMAGE,),
        image_id=image.id,
    )
