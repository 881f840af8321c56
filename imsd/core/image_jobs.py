"""Starting jobs on images: the request, checked, becomes a job, and a QUEUED image if it makes one."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition, NotFound
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import (
    ImageRecord,
    JobKind,
    JobRecord,
    JobState,
    UploadRecord,
    UploadState,
)

from . import quotas, requests
from .dispatcher import Dispatcher
from .fast_import import check_same_way
from .file_limits import require_file_size
from .lineage import origin_of
from .new_image import NewImage, checked, queued_image
from .quota_rules import IMAGES
from .requests import RequestKey
from .runtime import Runtime
from .sources import Sources
from .uploads import NewUpload, Uploads


class ImageJobs:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, uploads: Uploads, sources: Sources) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._uploads = uploads
        self._sources = sources

    async def create(self, key: RequestKey, new: NewImage) -> str:
        """Start a CREATE_IMAGE job and return its id; the first one's when ``key`` was used before."""
        new = checked(new, self._runtime.limits)
        if new.source and (earlier := await self.earlier(key)):
            return earlier  # whatever has become of the source
        own = await self._own_upload(key.project_id, new) if new.source else None
        async with self._runtime.database.transaction() as c:
            earlier = await requests.recall(c, key)
            if earlier:
                return earlier
            upload = own or await _committed_upload(c, key.project_id, new.upload_id)
            check_same_way(is_fast=new.is_fast, upload_is_fast=upload.is_fast)
            await quotas.reserve(c, self._runtime, key.project_id, IMAGES)
            image, job = self._records(key.project_id, new, upload)
            await job_rows.insert_job(c, job)
            await image_rows.insert_image(c, image)
            if own:
                await self._uploads.insert(c, own)
            elif not await upload_rows.attach_upload(c, upload.id, job.id):
                raise FailedPrecondition(
                    "another job makes an image of this upload", hint="list the jobs of the project"
                )
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def earlier(self, key: RequestKey) -> str | None:
        """The id of the job that ``key`` started before, whatever became of its image."""
        async with self._runtime.database.reading() as c:
            return await requests.recall(c, key)

    async def verify(self, key: RequestKey, image: ImageRecord) -> str:
        """Start a VERIFY_IMAGE job and return its id.

        The first one's when ``key`` was used before, and that of the job which verifies the image already.
        """
        job = JobRecord(
            id=self._runtime.new_id(),
            project_id=key.project_id,
            kind=JobKind.VERIFY_IMAGE,
            state=JobState.INIT,
            spec={},
            image_id=image.id,
            created_at=self._runtime.clock(),
        )
        async with self._runtime.database.transaction() as c:
            earlier = await requests.recall(c, key)
            if earlier:
                return earlier
            running = await job_rows.list_jobs(c, _verifying(image), 1, None)
            if running:
                await requests.remember(c, self._runtime, key, running[0].id)
                return running[0].id
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def _own_upload(self, project_id: str, new: NewImage) -> UploadRecord:
        """The upload into which a job fetches what ``new`` names; the job is yet to be made."""
        assert new.source is not None
        feed = self._sources.feed(project_id, new.source)
        require_file_size(await feed.known_size(), self._runtime.limits, is_fast=new.is_fast)
        wanted = NewUpload(
            file_name=feed.name,
            disk_format=new.disk_format,
            expected_sha256=new.expected_sha256,
            is_fast=new.is_fast,
        )
        return self._uploads.prepare(project_id, wanted, self._runtime.new_id())

    def _records(self, project_id: str, new: NewImage, upload: UploadRecord) -> tuple[ImageRecord, JobRecord]:
        job_id = upload.job_id or self._runtime.new_id()
        declared = replace(new, disk_format=new.disk_format or upload.disk_format)
        image = queued_image(self._runtime, project_id, declared, upload.store, job_id)
        origin_kind, origin = origin_of(new.source, upload.file_name)
        image = replace(image, origin_kind=origin_kind, origin=origin)
        job = JobRecord(
            id=job_id,
            project_id=project_id,
            kind=JobKind.CREATE_IMAGE,
            state=JobState.INIT,
            spec={
                "disk_format": declared.disk_format,
                "kind": new.kind,
                "min_disk_gb": new.min_disk_gb,
                "store": upload.store,
                "source": new.source.to_spec() if new.source else None,
            },
            image_id=image.id,
            upload_id=upload.id,
            created_at=image.created_at,
        )
        return image, job


def _verifying(image: ImageRecord) -> job_rows.JobQuery:
    return job_rows.JobQuery(
        project_id=image.project_id,
        states=(JobState.INIT, JobState.RUNNING),
        kinds=(JobKind.VERIFY_IMAGE,),
        image_id=image.id,
    )


async def _committed_upload(c: AsyncConnection, project_id: str, upload_id: str) -> UploadRecord:
    upload = await upload_rows.get_upload(c, project_id, upload_id)
    if upload is None:
        raise NotFound(
            f"there is no upload {upload_id} in this project",
            hint="it may have been aborted, expired or made into an image",
        )
    if upload.job_id:
        raise FailedPrecondition(
            "another job makes an image of this upload", hint=f"watch job {upload.job_id}"
        )
    if upload.state is not UploadState.COMMITTED:
        raise FailedPrecondition(
            "the upload is not complete",
            hint=f"send the bytes from offset {upload.committed_offset} on and commit it",
        )
    return upload
