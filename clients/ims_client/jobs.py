"""`JobService`, as methods; and waiting for a job through restarts of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from imsd.v1 import job_pb2 as pb
from imsd.v1.job_pb2_grpc import JobServiceStub

from .backoff import PATIENCE_SECONDS
from .connection import Connection
from .errors import CallFailed, JobCancelled, JobFailed

PAGE_SIZE = 500
FINAL_STATES = frozenset({pb.JOB_STATE_SUCCESS, pb.JOB_STATE_FAIL, pb.JOB_STATE_CANCELLED})


def is_final(job: pb.Job) -> bool:
    """Whether the state of ``job`` will never change again."""
    return job.state in FINAL_STATES


class JobCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/job.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = JobServiceStub(connection.channel)

    async def get(self, job_id: str) -> pb.Job:
        request = pb.GetJobRequest(project_id=self._project_id, job_id=job_id)
        job: pb.Job = await self._connection.call(self._stub.GetJob, request)
        return job

    async def list(
        self,
        states: Sequence[pb.JobState.ValueType] = (),
        kinds: Sequence[pb.JobKind.ValueType] = (),
        image_id: str = "",
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[pb.Job]:
        """All jobs that fit, newest first, page by page."""
        request = pb.ListJobsRequest(
            project_id=self._project_id,
            page_size=page_size,
            states=states,
            kinds=kinds,
            image_id=image_id,
        )
        while True:
            page = await self._connection.call(self._stub.ListJobs, request)
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, job_id: str) -> AsyncIterator[pb.Job]:
        """The states of a job as the daemon sends them; may end early, see `wait_for_job`."""
        request = pb.WatchJobRequest(project_id=self._project_id, job_id=job_id)
        return self._connection.stream(self._stub.WatchJob, request)

    async def cancel(self, job_id: str) -> pb.Job:
        request = pb.CancelJobRequest(project_id=self._project_id, job_id=job_id)
        job: pb.Job = await self._connection.call(self._stub.CancelJob, request)
        return job

    async def wait_for_job(
        self,
        job_id: str,
        on_progress: Callable[[pb.Job], None] = lambda job: None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> pb.Job:
        """Watch a job until it has succeeded, and return it; ``on_progress`` gets every state seen.

        A broken connection or a restart of the daemon is bridged for ``patience_seconds``.
        Raises `JobFailed`, `JobCancelled`, `CallFailed`.
        """
        backoff = self._connection.backoff(patience_seconds)
        while True:
            try:
                async for job in self.watch(job_id):
                    backoff.succeeded()
                    on_progress(job)
                    if is_final(job):
                        return _succeeded(job)
                broken = CallFailed("UNAVAILABLE", "the daemon stopped reporting on the job")
            except CallFailed as error:
                broken = error
            if not broken.is_transient or not await backoff.wait(broken):
                raise broken


def _succeeded(job: pb.Job) -> pb.Job:
    if job.state == pb.JOB_STATE_FAIL:
        raise JobFailed(job)
    if job.state == pb.JOB_STATE_CANCELLED:
        raise JobCancelled(job)
    return job
