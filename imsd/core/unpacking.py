"""Unpacking the file of a job that was compressed whole, into another upload of the job's own."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, replace
from functools import partial

from imsd.contract import FailedPrecondition
from imsd.formats.detect import find_wrapper
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import UploadRecord, UploadState

from .filling import Filling, fill
from .job_run import JobRun
from .limits import MAX_UNPACKERS
from .runtime import Runtime
from .staged_file import check_sha256, check_staged, staged_file
from .unpack_feed import UnpackFeed, WrappedFile
from .uploads import NewUpload, Uploads

# Of the percent of a job that unpacks; before it the packed file is checked.
UNPACK_SPAN = (20.0, 60.0)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The committed upload of which an image is made, and what it was compressed with, or empty."""

    upload: UploadRecord
    wrapper: str = ""


def unpacked_upload_id(job_id: str) -> str:
    """The upload into which a job unpacks: known from the job's id alone, whatever became of its row."""
    return str(uuid.uuid5(uuid.UUID(job_id), "unpacked"))


class Unpacking:
    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._places = asyncio.Semaphore(MAX_UNPACKERS)

    async def unpack(self, run: JobRun) -> Unpacked:
        """The upload of the job or, if its file was compressed whole, one of what is inside.

        Raises FailedPrecondition, ImageRefused, DataLoss, InvalidRequest (DIGEST_MISMATCH), and `ImsError` of
        uploads.
        """
        packed = await committed_upload(run, run.record.upload_id)
        if packed.is_direct:
            return Unpacked(packed)
        file, declared = await staged_file(run, packed), str(run.record.spec["disk_format"])
        wrapper = await run.runtime.pool.run(find_wrapper, file, declared)
        if wrapper is None:
            return Unpacked(packed)
        inner = await self.own_upload(run, packed.file_name)
        if inner.state is UploadState.OPEN:
            await check_staged(run, file, packed)
            await check_sha256(run, file, packed.expected_sha256)
            wrapped = WrappedFile(file, wrapper, packed.file_name, packed.digest)
            await fill(
                run, Filling(inner.id, partial(self.feed, run.runtime, wrapped), "unpack", UNPACK_SPAN)
            )
        run.begin_at(UNPACK_SPAN[1])
        return Unpacked(await committed_upload(run, inner.id), wrapper)

    def feed(self, runtime: Runtime, wrapped: WrappedFile) -> UnpackFeed:
        """What is in a packed file, of at most the size of an upload."""
        return UnpackFeed(runtime.pool, wrapped, runtime.limits.max_upload_size_bytes, self._places)

    async def own_upload(self, run: JobRun, file_name: str) -> UploadRecord:
        """The upload into which the job unpacks; that of an earlier run, if there is one."""
        record, upload_id = run.record, unpacked_upload_id(run.record.id)
        wanted = NewUpload(file_name=file_name, disk_format=str(record.spec["disk_format"]))
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)
            upload = await upload_rows.get_upload(c, record.project_id, upload_id)
            if upload is None:
                store = str(record.spec["store"])
                new = self._uploads.prepare(record.project_id, wanted, record.id, store)
                upload = replace(new, id=upload_id)
                await upload_rows.insert_upload(c, upload)
        return upload


async def committed_upload(run: JobRun, upload_id: str) -> UploadRecord:
    """Raises FailedPrecondition."""
    async with run.runtime.database.reading() as c:
        upload = await upload_rows.get_upload(c, run.record.project_id, upload_id)
    if upload is None or upload.state is not UploadState.COMMITTED:
        raise FailedPrecondition("the upload of this job is gone")
    return upload
