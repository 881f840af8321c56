"""Starting jobs on images: the request, checked, becomes a job, and a QUEUED image if it makes one."""

from __future__ import annotations

from dataclasses import replace

from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import ImageRecord, JobKind, JobRecord, JobState

from . import quotas, requests
from .dispatcher import Dispatcher
from .image_changes import ImageRef, change, changed_meanwhile
from .image_file import ImageFile, ImageFiles, check_file, spec_of
from .image_registration import filled_by, filling_job, require_plain, waiting_image
from .keys.encryption import require_encryptable
from .lineage import origin_of
from .new_image import NewImage, checked, queued_image, require_system_of_iso
from .quota_rules import IMAGES
from .requests import RequestKey
from .runtime import Runtime
from .sources import Sources
from .uploads import PreparedUpload, Uploads


class ImageJobs:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, uploads: Uploads, sources: Sources) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._files = ImageFiles(runtime, uploads, sources)

    async def create(self, key: RequestKey, new: NewImage) -> str:
        """Start a CREATE_IMAGE job and return its id; the first one's when ``key`` was used before."""
        new = checked(new, self._runtime.limits)
        if new.source and (earlier := await self.earlier(key)):
            return earlier  # whatever has become of the source
        own = await self._files.own_upload(key.project_id, new)
        async with self._runtime.database.transaction() as c:
            earlier = await requests.recall(c, key)
            if earlier:
                return earlier
            upload = own or await self._files.committed(c, key.project_id, new)
            await quotas.reserve(c, self._runtime, key.project_id, IMAGES)
            image, job = self._records(key.project_id, new, upload)
            await job_rows.insert_job(c, job)
            await image_rows.insert_image(c, image)
            await self._files.give(c, upload, job.id)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def register(self, key: RequestKey, ref: ImageRef, file: ImageFile) -> str:
        """Start a CREATE_IMAGE job that fills a prepared image, and return its id.

        The first one's when ``key`` was used before. Raises InvalidRequest, NotFound, PermissionDenied
        (NOT_OWNER), FailedPrecondition (the image does not wait for a file, or another job fills it),
        Conflict (also of the etag), and what `create` raises of the file.
        """
        check_file(file)
        if earlier := await self.earlier(key):
            return earlier
        async with self._runtime.database.reading() as c:
            image = await waiting_image(c, ref)
        file = replace(file, disk_format=image.disk_format)
        own = await self._files.own_upload(key.project_id, file)
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            image = await waiting_image(c, ref)
            if image.disk_format != file.disk_format:
                raise changed_meanwhile(image)
            upload = own or await self._files.committed(c, key.project_id, file)
            require_plain(upload.record)
            job = filling_job(self._runtime, image, file, upload.record)
            await job_rows.insert_job(c, job)
            await change(c, self._runtime, image, filled_by(job, file, upload.record))
            await self._files.give(c, upload, job.id)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def check_new(self, project_id: str, new: NewImage) -> None:
        """Change nothing, and raise what `create` would of ``new``, quotas and the bytes of its file aside.

        The upload may still be open.
        """
        new = checked(new, self._runtime.limits)
        async with self._runtime.database.reading() as c:
            declared = await self._files.check(c, project_id, new)
        require_system_of_iso(replace(new, disk_format=declared))

    async def check_registered(self, ref: ImageRef, file: ImageFile) -> None:
        """As `check_new`, of `register`."""
        check_file(file)
        async with self._runtime.database.reading() as c:
            image = await waiting_image(c, ref)
            await self._files.check(c, ref.project_id, replace(file, disk_format=image.disk_format))

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

    def _records(
        self, project_id: str, new: NewImage, prepared: PreparedUpload
    ) -> tuple[ImageRecord, JobRecord]:
        upload, data_key = prepared.record, prepared.data_key
        job_id = upload.job_id or self._runtime.new_id()
        declared = replace(new, disk_format=new.disk_format or upload.disk_format)
        require_system_of_iso(declared)
        if data_key:
            require_encryptable(
                is_fast=declared.is_fast,
                kind=declared.kind,
                disk_format=declared.disk_format,
                server_kind=declared.server_kind,
            )
        image = queued_image(self._runtime, project_id, declared, upload.store, job_id)
        origin_kind, origin = origin_of(new.source, upload.file_name)
        image = replace(image, origin_kind=origin_kind, origin=origin)
        if data_key:
            image = replace(image, id=data_key.image_id, key_id=data_key.key_id)
        job = JobRecord(
            id=job_id,
            project_id=project_id,
            kind=JobKind.CREATE_IMAGE,
            state=JobState.INIT,
            spec=spec_of(image, new, upload, kind=new.kind),
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
