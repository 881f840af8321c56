"""Filling an upload of a job's own from a feed.

That upload is as durable as any other, so a job that runs again goes on at its committed offset, if the file
is still the same there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imsd.contract import FailedPrecondition
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import UploadRecord

from .feeds import Feed, pump
from .file_limits import require_file_size
from .job_run import JobRun
from .upload_progress import UploadProgress
from .upload_session import UploadSession, seal_upload
from .uploads import check_size


@dataclass(frozen=True, slots=True)
class Filling:
    """What comes into the upload ``upload_id``, and what a job says of it: see `JobRun.enter`.

    ``feed`` is only called when bytes are missing, and may raise `ImsError`.
    """

    upload_id: str
    feed: Callable[[], Feed]
    phase: str
    span: tuple[float, float]


async def fill(run: JobRun, filling: Filling) -> None:
    """Make the upload COMMITTED; it may be so already.

    Raises what opening and reading the feed raises, and `ImsError` of uploads.
    """
    upload = await _take_over(run, filling.upload_id)
    if upload is None:
        return
    run.enter(filling.phase, upload.size_bytes, filling.span, upload.committed_offset)
    if not upload.size_bytes or upload.committed_offset < upload.size_bytes:
        await _pump(run, filling, upload)
    upload = await _take_over(run, filling.upload_id)
    if upload is not None:
        check_size(upload, upload.committed_offset)
        await seal_upload(run.runtime, upload, "")


async def _pump(run: JobRun, filling: Filling, upload: UploadRecord) -> None:
    runtime, offset = run.runtime, upload.committed_offset
    async with filling.feed().open(offset) as opened:
        if offset:
            opened.require_same(upload.fingerprint)
        require_file_size(opened.size_bytes or 0, runtime.limits, is_fast=upload.is_fast)
        progress = await UploadProgress.load(runtime, upload)
        await progress.describe(opened.size_bytes or 0, opened.mark)
        done, total = opened.progress(offset)
        run.enter(filling.phase, total, filling.span, done)
        async with UploadSession(runtime, progress) as session:
            await pump(opened, session, run.advance)


async def _take_over(run: JobRun, upload_id: str) -> UploadRecord | None:
    """Become the writer of the upload; None when it is complete. Raises Conflict, FailedPrecondition."""
    async with run.runtime.database.transaction() as c:
        await run.require_fence(c)
        fence = await upload_rows.take_over(c, upload_id)
        upload = await upload_rows.get_upload(c, run.record.project_id, upload_id)
    if upload is None:
        raise FailedPrecondition("the upload of this job is gone")
    return None if fence is None else upload
