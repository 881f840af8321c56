"""Fetching the file of a job that names one: its bytes go into an upload of the job's own.

That upload is as durable as any other, so a job that runs again goes on at its committed offset, if the file
is still the same there.
"""

from __future__ import annotations

from imsd.contract import FailedPrecondition, LimitExceeded
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import UploadRecord

from .feeds import OpenedFeed, pump
from .job_run import JobRun
from .runtime import Runtime
from .sources import Source, Sources
from .upload_progress import UploadProgress
from .upload_session import UploadSession, seal_upload
from .uploads import check_size

# Of the percent of a job that fetches; the rest is that of any other job.
FETCH_PERCENT = 60.0


class Fetching:
    def __init__(self, runtime: Runtime, sources: Sources) -> None:
        self._runtime = runtime
        self._sources = sources

    async def fetch(self, run: JobRun) -> None:
        """Make the upload of a job with a source COMMITTED; of any other job it is already.

        Raises what opening and reading the source raises, and `ImsError` of uploads.
        """
        source = Source.of_job(run.record.spec)
        if source is None:
            return
        upload = await self._take_over(run)
        if upload is not None:
            run.enter("fetch", upload.size_bytes, (0.0, FETCH_PERCENT), upload.committed_offset)
            if not upload.size_bytes or upload.committed_offset < upload.size_bytes:
                await self._fetch(run, source, upload)
            await self._seal(run)
        run.begin_at(FETCH_PERCENT)

    async def _fetch(self, run: JobRun, source: Source, upload: UploadRecord) -> None:
        feed, offset = self._sources.feed(source), upload.committed_offset
        async with feed.open(offset) as opened:
            if offset:
                opened.require_same(upload.fingerprint)
            self._require_size(opened)
            progress = await UploadProgress.load(self._runtime, upload)
            await progress.describe(opened.size_bytes or 0, opened.mark)
            run.enter("fetch", opened.size_bytes or 0, (0.0, FETCH_PERCENT), offset)
            async with UploadSession(self._runtime, progress) as session:
                await pump(opened, session, run.advance)

    async def _seal(self, run: JobRun) -> None:
        upload = await self._take_over(run)
        if upload is not None:
            check_size(upload, upload.committed_offset)
            await seal_upload(self._runtime, upload, "")

    async def _take_over(self, run: JobRun) -> UploadRecord | None:
        """Become the writer of the upload; None when it is complete. Raises Conflict, FailedPrecondition."""
        record = run.record
        async with self._runtime.database.transaction() as c:
            await run.require_fence(c)
            fence = await upload_rows.take_over(c, record.upload_id)
            upload = await upload_rows.get_upload(c, record.project_id, record.upload_id)
        if upload is None:
            raise FailedPrecondition("the upload of this job is gone")
        return None if fence is None else upload

    def _require_size(self, opened: OpenedFeed) -> None:
        most = self._runtime.limits.max_upload_size_bytes
        if opened.size_bytes and opened.size_bytes > most:
            raise LimitExceeded(f"the file has {opened.size_bytes} bytes, an upload has at most {most}")
