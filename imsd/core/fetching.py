"""Fetching the file of a job that names one: its bytes go into an upload of the job's own."""

from __future__ import annotations

from functools import partial

from .filling import Filling, fill
from .job_run import JobRun
from .sources import Source, Sources

# Of the percent of a job that fetches; the rest is that of any other job.
FETCH_PERCENT = 60.0


class Fetching:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def fetch(self, run: JobRun) -> None:
        """Make the upload of a job with a source COMMITTED; of any other job it is already.

        Raises what opening and reading the source raises, and `ImsError` of uploads.
        """
        source = Source.of_job(run.record.spec)
        if source is None:
            return
        feed = partial(self._sources.feed, run.record.project_id, source)
        await fill(run, Filling(run.record.upload_id, feed, "fetch", (0.0, FETCH_PERCENT)))
        run.begin_at(FETCH_PERCENT)
