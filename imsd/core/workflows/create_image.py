"""Create an image, or one for each disk of a package, from a committed upload or a file that is fetched;
or fill an image that was prepared, which waits again if that fails.

The story: a file that was compressed whole is unpacked into an upload of the job's own; the upload's bytes
are opened as a disk (or are chunks already), checked, stored chunk by chunk, listed in a manifest; then one
transaction makes the manifest live, the image ACTIVE, the uploads gone and the job SUCCESS. Until that
transaction nothing of it can be seen but a QUEUED image; a job that runs again after a crash finds the
chunks it stored by their digests and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import ImsError
from imsd.core.fetching import Fetching
from imsd.core.image_making import ImageMaker, MadeImage, forget_upload, publish
from imsd.core.image_registration import is_registered, refuse_package, wait_again
from imsd.core.job_run import JobRun, Workflow
from imsd.core.package_import import (
    PackagedImage,
    PackageImport,
    end_cancelled_sub_jobs,
    undo_sub_jobs,
)
from imsd.core.sources import Source
from imsd.core.staged_file import find_file
from imsd.core.sweeper import Sweeper
from imsd.core.unpacking import Unpacking, unpacked_upload_id
from imsd.core.uploads import Uploads
from imsd.core.usage_of_jobs import count_import
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import JobState

# Faults of the bytes themselves: the upload will never become an image, so it goes too. After any other
# error, a fault of the request for one, a better request can still make an image of it.
HOPELESS = frozenset({"FORMAT_UNSUPPORTED", "FORMAT_AMBIGUOUS", "DIGEST_MISMATCH", "FAST_IMPORT_UNSUITED"})
# Faults of the request, though they are named as those of the bytes are.
NOT_OF_THE_BYTES = frozenset({"IMAGE_KIND_UNSUITED", "IMAGE_FILE_TOO_LARGE"})


class CreateImage(Workflow):
    def __init__(self, uploads: Uploads, sweeper: Sweeper, fetching: Fetching, maker: ImageMaker) -> None:
        self._uploads = uploads
        self._sweeper = sweeper
        self._fetching = fetching
        self._unpacking = Unpacking(uploads)
        self._packages = PackageImport(self._unpacking, maker)
        self._maker = maker

    async def run(self, run: JobRun) -> None:
        await self._fetching.fetch(run)
        found = await self._unpacking.unpack(run, await find_file(run, run.record.upload_id))
        if found.is_package:
            refuse_package(run)
            async with self._packages.making(run, found) as images:
                run.enter("commit", 0, (99.0, 100.0))
                await self._publish_all(run, images)
            return
        made = await self._maker.make(run, found)
        run.enter("commit", 0, (99.0, 100.0))
        await self._publish(run, made)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        await undo_sub_jobs(c, run, error)
        await chunk_index.release_holder(c, run.holder)
        if is_registered(run):
            await wait_again(c, run)
        else:
            await image_rows.delete_image_row(c, run.record.image_id)
        await forget_upload(c, unpacked_upload_id(run.record.id))
        # Nobody else can use what this job fetched.
        if error is None or is_hopeless(error) or Source.of_job(run.record.spec):
            await forget_upload(c, run.record.upload_id)
        else:
            await upload_rows.detach_upload(c, run.record.upload_id, run.record.id)

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Free the bytes of uploads that are gone, and every pack and manifest nothing holds.

        Whoever cancels is told that nothing is left; after any other end the sweep comes soon enough.
        """
        store_name = str(run.record.spec["store"])
        async with run.runtime.database.reading() as c:
            parts = await job_rows.sub_jobs(c, [run.record.id])
            uploads = [*_uploads_of(run), *(part.upload_id for part in parts)]
            kept = await upload_rows.known_uploads(c, uploads)
        for upload_id in uploads:
            if upload_id not in kept:
                await self._uploads.discard_bytes(store_name, upload_id)
        if state is JobState.CANCELLING:
            await self._sweeper.free(store_name)
            await end_cancelled_sub_jobs(run)
        else:
            self._sweeper.wake(store_name)

    async def _publish(self, run: JobRun, made: MadeImage) -> None:
        async with run.runtime.database.transaction() as c:
            await count_import(c, run)
            await publish(c, run, made)
            await _finish(c, run, [made])

    async def _publish_all(self, run: JobRun, images: Sequence[PackagedImage]) -> None:
        async with run.runtime.database.transaction() as c:
            await count_import(c, run)
            for each in images:
                await publish(c, each.run, each.made)
                await each.run.succeed(c, {"image_id": each.made.image.id})
            await _finish(c, run, [each.made for each in images])


async def _finish(c: AsyncConnection, run: JobRun, made: Sequence[MadeImage]) -> None:
    for upload_id in _uploads_of(run):
        await forget_upload(c, upload_id)
    await run.succeed(c, {"image_ids": [each.image.id for each in made]})


def _uploads_of(run: JobRun) -> tuple[str, str]:
    return run.record.upload_id, unpacked_upload_id(run.record.id)


def is_hopeless(error: ImsError) -> bool:
    """Whether no request can ever make an image of the upload."""
    is_of_bytes = error.reason.startswith("IMAGE_") and error.reason not in NOT_OF_THE_BYTES
    return is_of_bytes or error.reason in HOPELESS
