"""Unpacking the file of a job that was compressed whole, into another upload of the job's own."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from functools import partial

from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import UploadRecord, UploadState

from .filling import Filling, fill
from .job_run import JobRun
from .limits import MAX_UNPACKERS
from .runtime import Runtime
from .staged_file import FoundFile, check_file, find_file
from .unpack_feed import UnpackFeed, WrappedFile
from .uploads import NewUpload, Uploads

# Of the percent of a job that unpacks; before it the packed file is checked.
UNPACK_SPAN = (20.0, 60.0)


def unpacked_upload_id(job_id: str) -> str:
    """The upload into which a job unpacks: known from the job's id alone, whatever became of its row."""
    return str(uuid.uuid5(uuid.UUID(job_id), "unpacked"))


class Unpacking:
    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._places = asyncio.Semaphore(MAX_UNPACKERS)

    async def unpack(self, run: JobRun, found: FoundFile) -> FoundFile:
        """``found`` or, if it was compressed whole, what is inside.

        Raises FailedPrecondition, ImageRefused, DataLoss, InvalidRequest (DIGEST_MISMATCH), and `ImsError` of
        uploads.
        """
        if found.file is None or not found.wrapper:
            return found
        inner = await self._own_upload(run, found)
        if inner.state is UploadState.OPEN:
            if not found.is_proved:
                await check_file(run, found.file, found.upload)
            wrapped = WrappedFile(found.file, found.wrapper, found.name, found.upload.digest)
            feed = partial(self._feed, run.runtime, wrapped)
            await fill(run, Filling(inner.id, feed, "unpack", UNPACK_SPAN))
        run.begin_at(UNPACK_SPAN[1])
        return replace(await find_file(run, inner.id), wrapper=found.wrapper)

    def _feed(self, runtime: Runtime, wrapped: WrappedFile) -> UnpackFeed:
        return UnpackFeed(runtime.pool, wrapped, runtime.limits.max_upload_size_bytes, self._places)

    async def _own_upload(self, run: JobRun, found: FoundFile) -> UploadRecord:
        """The upload into which the job unpacks; that of an earlier run, if there is one."""
        record, upload_id = run.record, unpacked_upload_id(run.record.id)
        wanted = NewUpload(
            file_name=found.name,
            disk_format=str(record.spec["disk_format"]),
            store=str(record.spec["store"]),
        )
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)
            upload = await upload_rows.get_upload(c, record.project_id, upload_id)
            if upload is None:
                new = self._uploads.record(record.project_id, wanted, record.id)
                # What is encrypted has its data key since the packed file came.
                image_id = record.image_id if found.upload.image_id else ""
                upload = replace(new, id=upload_id, image_id=image_id)
                await upload_rows.insert_upload(c, upload)
        return upload
