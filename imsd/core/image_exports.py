"""Exporting images into buckets: the request, checked, becomes a job."""

from __future__ import annotations

from dataclasses import dataclass

from imsd.metadata import jobs as job_rows
from imsd.metadata.records import JobKind, JobRecord, JobState

from . import checks, requests
from .buckets import Buckets
from .dispatcher import Dispatcher
from .export_rules import ExportPolicy, export_format, require_exportable
from .export_target import FIELD, require_free
from .image_access import seen_image
from .keys.encryption import require_readable
from .object_place import ObjectPlace
from .requests import RequestKey
from .runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExport:
    """What a caller wants; ``target``: BUCKET:OBJECT. ``disk_format`` is empty with ``is_fast``."""

    image_id: str
    target: str
    disk_format: str = ""
    is_fast: bool = False


class ImageExports:
    def __init__(
        self, runtime: Runtime, dispatcher: Dispatcher, buckets: Buckets, policy: ExportPolicy
    ) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._buckets = buckets
        self._policy = policy

    async def start(self, key: RequestKey, new: NewExport) -> str:
        """Start an EXPORT_IMAGE job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest, NotFound, PermissionDenied, FailedPrecondition, AlreadyExists, LimitExceeded,
        Unavailable.
        """
        image_id = checks.uuid("image_id", new.image_id)
        disk_format = export_format(new.disk_format, is_fast=new.is_fast)
        place = ObjectPlace.parse(FIELD, new.target)
        async with self._runtime.database.reading() as c:
            if earlier := await requests.recall(c, key):
                return earlier  # whatever has become of image and target
            image = await seen_image(c, key.project_id, image_id)
        require_exportable(key.project_id, image, disk_format, self._policy)
        await require_readable(self._runtime, image)
        await require_free(self._buckets.target(key.project_id, place, FIELD), place)
        return await self._insert(key, image_id, {"target": str(place), "disk_format": disk_format})

    async def _insert(self, key: RequestKey, image_id: str, spec: dict[str, str]) -> str:
        job = JobRecord(
            id=self._runtime.new_id(),
            project_id=key.project_id,
            kind=JobKind.EXPORT_IMAGE,
            state=JobState.INIT,
            spec=spec,
            image_id=image_id,
            created_at=self._runtime.clock(),
        )
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id
