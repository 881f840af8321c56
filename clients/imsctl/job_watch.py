"""Waiting for a job with progress; Ctrl-C cancels it."""

from __future__ import annotations

import asyncio

from ims_client import CallFailed, ImsClient, JobCancelled, JobFailed

from imsd.v1 import job_pb2

from .progress import ProgressRow, job_snapshot
from .session import Interrupted

# What is done for a cancelled job takes about two seconds; a daemon that restarts meanwhile goes on.
CANCEL_PATIENCE_SECONDS = 60.0


async def watch_job(client: ImsClient, job_id: str, row: ProgressRow) -> job_pb2.Job:
    """Wait until the job has succeeded. Raises `JobFailed`, `JobCancelled`, `CallFailed`."""
    try:
        return await client.jobs.wait_for_job(job_id, lambda job: row.show(job_snapshot(job)))
    except CallFailed as error:
        if error.is_transient:
            follow = f"the job goes on: follow it with `imsctl job watch {job_id}`"
            error.hint = f"{error.hint}; {follow}" if error.hint else follow
        raise


async def watch_own_job(client: ImsClient, job_id: str, row: ProgressRow) -> job_pb2.Job:
    """As `watch_job`, for a job that this command started: broken off, the job is cancelled first.

    Raises `Interrupted` too.
    """
    try:
        return await watch_job(client, job_id, row)
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
