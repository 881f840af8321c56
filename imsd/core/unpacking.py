"""Unpacking the file of a job that was compressed whole, into another upload of the job's own."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, replace
from functools import partial

from imsd.chunks.staged_source import StagedSource
from imsd.contract import FailedPrecondition
from imsd.formats.detect import find_wrapper
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import UploadRecord, UploadState

from .filling import Filling, fill
from .job_run import JobRun
from .limits import MAX_UNPACKERS
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
        packed = await _upload(run, run.record.upload_id)
        if packed is None or packed.state is not UploadState.COMMITTED:
            raise FailedPrecondition("the upload of this job is gone")
        if packed.is_direct:
            return Unpacked(packed)
        file, declared = await staged_file(run, packed), str(run.record.spec["disk_format"])
        wrapper = await run.runtime.pool.run(find_wrapper, file, declared)
        if wrapper is None:
            return Unpacked(packed)
        inner = await self._inner_upload(run, packed, declared)
        if inner.state is UploadState.OPEN:
            await self._unpack(run, packed, file, wrapper)
        run.begin_at(UNPACK_SPAN[1])
        unpacked = await _upload(run, inner.id)
        assert unpacked is not None
        return Unpacked(unpacked, wrapper)

    async def _inner_upload(self, run: JobRun, packed: UploadRecord, declared: str) -> UploadRecord:
        """Of this run or, if the job runs again, of an earlier one."""
        inner_id = unpacked_upload_id(run.record.id)
        wanted = NewUpload(file_name=packed.file_name, disk_format=declared)
        new = self._uploads.prepare(packed.project_id, wanted, run.record.id)
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)
            inner = await upload_rows.get_upload(c, packed.project_id, inner_id)
            if inner is None:
                inner = replace(new, id=inner_id, store=packed.store)
                await upload_rows.insert_upload(c, inner)
        return inner

    async def _unpack(self, run: JobRun, packed: UploadRecord, file: StagedSource, wrapper: str) -> None:
        await check_staged(run, file, packed)
        await check_sha256(run, file, packed.expected_sha256)
        wrapped = WrappedFile(file, wrapper, packed.file_name, packed.digest)
        runtime = run.runtime
        most = runtime.limits.max_upload_size_bytes
        feed = partial(UnpackFeed, runtime.pool, wrapped, most, self._places)
        await fill(run, Filling(unpacked_upload_id(run.record.id), feed, "unpack", UNPACK_SPAN))


async def _upload(run: JobRun, upload_id: str) -> UploadRecord | None:
    async with run.runtime.database.reading() as c:
        return await upload_rows.get_upload(c, run.record.project_id, upload_id)
