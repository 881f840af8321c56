"""A job from the request to its end, as most commands that start one want it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ims_client import ImsClient

from imsd.v1 import job_pb2

from .job_output import print_job
from .job_watch import start_own_job, watch_own_job
from .outage_notes import OutageNotes
from .session import Session


async def run_own_job(
    session: Session, client: ImsClient, ask: Callable[[], Awaitable[job_pb2.Job]], *, is_detached: bool
) -> job_pb2.Job | None:
    """The job when it has succeeded; None, and it is printed, when nobody is to wait for that.

    ``ask`` starts it, and may be repeated. Raises as `start_own_job` and `watch_own_job`.
    """
    with session.progress() as view:
        row = OutageNotes(client, view)
        job = await start_own_job(client, ask, row)
        if not is_detached:
            return await watch_own_job(client, job.id, row, view)
    print_job(session, job)
    return None
