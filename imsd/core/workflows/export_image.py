"""Export an image: its disk, as a file of another format, becomes an object of a bucket.

The story: whether the image may be exported is looked at when the job begins, for much may have changed since
it was asked for; from then on its bytes are held. A format whose tables come first is measured. Then the file
flows from the store into the bucket, piece by piece, and appears there when it is whole: by a commit that
replaces nothing. A job that runs again begins anew, unless the object is there already and is to the last
byte the one that an earlier run was about to commit.
"""

from __future__ import annotations

from dataclasses import asdict

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import BlobStore, FailedPrecondition, ImsError, NotFound
from imsd.core import usage
from imsd.core.buckets import Buckets
from imsd.core.downloads import Outlet
from imsd.core.export_rules import ExportPolicy, require_exportable
from imsd.core.export_target import FIELD, ExportedObject, ExportTargets, is_there, write_object
from imsd.core.image_access import seen_image
from imsd.core.job_run import JobRun, Workflow
from imsd.core.object_place import ObjectPlace
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import ImageRecord, JobState

log = structlog.get_logger(__name__)

# Of the percent of a job; a format that is not measured begins to be written at once.
MEASURE_SPAN, WRITE_SPAN, WHOLE_SPAN = (0.0, 50.0), (50.0, 99.0), (0.0, 99.0)


class ExportImage(Workflow):
    def __init__(
        self, outlet: Outlet, buckets: Buckets, policy: ExportPolicy, targets: ExportTargets
    ) -> None:
        self._outlet = outlet
        self._buckets = buckets
        self._policy = policy
        self._targets = targets

    async def run(self, run: JobRun) -> None:
        disk_format = str(run.record.spec["disk_format"])
        place, store = self._target(run)
        written = ExportedObject.of_result(run.record.result)
        if written is None or not await is_there(store, place, written):
            image = await self._image(run, disk_format)
            written = await self._export(run, image, store, place)
        async with run.runtime.database.transaction() as c:
            await run.succeed(c, asdict(written))
            await usage.count(c, run.runtime, run.record.project_id, usage.EXPORT_BYTES, written.size_bytes)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        return None

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Remove the object of a job that did not succeed, if it got so far."""
        if state is JobState.SUCCESS:
            return
        async with run.runtime.database.reading() as c:
            record = await job_rows.get_job(c, run.record.project_id, run.record.id)
        written = ExportedObject.of_result(record.result) if record else None
        if written is None:
            return
        try:
            place, store = self._target(run)
        except (NotFound, FailedPrecondition) as error:
            # Nobody may write there any more: waiting for that to change would keep the job for ever.
            log.warning("what an export may have left stays", target=written.target, why=error.message)
            return
        if await is_there(store, place, written):
            await store.delete(place.name)

    def _target(self, run: JobRun) -> tuple[ObjectPlace, BlobStore]:
        """Raises NotFound, FailedPrecondition, Unavailable."""
        place = ObjectPlace.parse(FIELD, str(run.record.spec["target"]))
        return place, self._buckets.target(run.record.project_id, place, FIELD)

    async def _image(self, run: JobRun, disk_format: str) -> ImageRecord:
        """The image, which may still be exported. Raises as `require_exportable`, and NotFound."""
        project_id = run.record.project_id
        async with run.runtime.database.reading() as c:
            image = await seen_image(c, project_id, run.record.image_id)
        require_exportable(project_id, image, disk_format, self._policy)
        return image

    async def _export(
        self, run: JobRun, image: ImageRecord, store: BlobStore, place: ObjectPlace
    ) -> ExportedObject:
        reading = _Reading(run)
        run.enter("measure", image.data_size, MEASURE_SPAN)
        disk_format = str(run.record.spec["disk_format"])
        async with self._outlet.open(image, disk_format, on_read=reading.advance) as file:
            run.enter("export", image.data_size, WRITE_SPAN if reading.bytes_done else WHOLE_SPAN)
            reading.bytes_done = 0
            return await write_object(run, store, place, file.pieces, self._targets)


class _Reading:
    """How much of the disk was read in this phase; told by threads."""

    def __init__(self, run: JobRun) -> None:
        self._run = run
        self.bytes_done = 0

    def advance(self, length: int) -> None:
        # Two threads at once may lose a step: it is progress that is told, and no account.
        self.bytes_done += length
        self._run.advance(self.bytes_done)
