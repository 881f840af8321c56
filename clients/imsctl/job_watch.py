"""Waiting for a job with progress; Ctrl-C cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from ims_client import CallFailed, ClientError, ImsClient, JobCancelled, JobFailed, patiently

from imsd.v1 import job_pb2

from .progress import ProgressRow, ProgressView, job_snapshot
from .session import Interrupted

# What is done for a cancelled job takes about two seconds; a daemon that restarts meanwhile goes on.
CANCEL_PATIENCE_SECONDS = 60.0

# An answer that is on its way when Ctrl-C comes names the job to cancel.
ANSWER_SECONDS = 5.0


class SubJobs:
    """A row for each sub-job of a job, as soon as there are any; ended with the block."""

    def __init__(self, client: ImsClient, view: ProgressView | None) -> None:
        self._client = client
        self._view = view
        self._rows: list[ProgressRow] = []
        self._watching: list[asyncio.Task[None]] = []

    def follow(self, parent: job_pb2.Job) -> None:
        """This is the newest state of the job whose sub-jobs they are."""
        if self._view and not self._rows:
            self._rows = [self._view.row(f"disk {at}") for at in range(1, len(parent.sub_job_ids) + 1)]
            self._watching = [
                asyncio.create_task(self._watch(job_id, row))
                for job_id, row in zip(parent.sub_job_ids, self._rows, strict=True)
            ]
        if parent.state == job_pb2.JOB_STATE_SUCCESS:  # and so have they
            for row in self._rows:
                row.show(job_snapshot(parent))

    async def _watch(self, job_id: str, row: ProgressRow) -> None:
        with suppress(ClientError):  # the parent tells
            await self._client.jobs.wait_for_job(job_id, lambda job: row.show(job_snapshot(job)))

    def end(self) -> None:
        for watching in self._watching:
            watching.cancel()


@contextmanager
def shown_sub_jobs(client: ImsClient, view: ProgressView | None) -> Iterator[SubJobs]:
    sub_jobs = SubJobs(client, view)
    try:
        yield sub_jobs
    finally:
        sub_jobs.end()


async def watch_job(
    client: ImsClient, job_id: str, row: ProgressRow, view: ProgressView | None = None
) -> job_pb2.Job:
    """Wait until the job has succeeded; its sub-jobs have rows of ``view``, if that is given.

    Raises `JobFailed`, `JobCancelled`, `CallFailed`.
    """
    try:
        with shown_sub_jobs(client, view) as sub_jobs:

            def show(job: job_pb2.Job) -> None:
                row.show(job_snapshot(job))
                sub_jobs.follow(job)

            return await client.jobs.wait_for_job(job_id, show)
    except CallFailed as error:
        if error.is_transient:
            follow = f"the job goes on: follow it with `imsctl job watch {job_id}`"
            error.hint = f"{error.hint}; {follow}" if error.hint else follow
        raise


async def start_own_job(
    client: ImsClient, ask: Callable[[], Awaitable[job_pb2.Job]], row: ProgressRow
) -> job_pb2.Job:
    """Start a job by ``ask``, which may be repeated; broken off meanwhile, the job is cancelled.

    Raises Interrupted, CallFailed.
    """
    starting = asyncio.ensure_future(patiently(ask, client.backoff()))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(ClientError, TimeoutError):
            job = await asyncio.wait_for(starting, ANSWER_SECONDS)
            raise await cancel_own_job(client, job.id, row) from None
        raise Interrupted("interrupted: no job was started") from None


async def watch_own_job(
    client: ImsClient, job_id: str, row: ProgressRow, view: ProgressView | None = None
) -> job_pb2.Job:
    """As `watch_job`, for a job that this command started: broken off, the job is cancelled first.

    Raises `Interrupted` too.
    """
    try:
        return await watch_job(client, job_id, row, view)
    except asyncio.CancelledError:
        raise await cancel_own_job(client, job_id, row) from None


async def cancel_own_job(client: ImsClient, job_id: str, row: ProgressRow) -> Interrupted:
    """Cancel the job and wait until nothing of it is left; returns what to say of it."""
    try:
        await client.jobs.cancel(job_id)
        await client.jobs.wait_for_job(
            job_id, lambda job: row.show(job_snapshot(job)), CANCEL_PATIENCE_SECONDS
        )
    except JobCancelled:
        return Interrupted(f"interrupted: job {job_id} is cancelled and left nothing behind")
    except JobFailed as failed:
        return Interrupted(f"interrupted: job {job_id} had failed: {failed.message}")
    except CallFailed as failed:
        return Interrupted(
            f"interrupted, but job {job_id} could not be cancelled: {failed.message}",
            f"cancel it with `imsctl job cancel {job_id}`",
        )
    return Interrupted(f"interrupted, but job {job_id} had already succeeded")
