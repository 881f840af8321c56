"""JobService: a wire message in, one call on the core, a wire message out.

There is no try/except and no logging in a servicer: the interceptor does both for every call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from imsd.core import checks
from imsd.core.jobs import Jobs
from imsd.metadata.jobs import JobQuery
from imsd.v1 import job_pb2 as pb
from imsd.v1.job_pb2_grpc import JobServiceServicer

from . import convert
from .context import Context
from .pages import page_that_fits


class JobServicer(JobServiceServicer):
    """Serves ``imsd.v1.JobService``; what each call means is written in the .proto file."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def GetJob(self, request: pb.GetJobRequest, _: Context) -> pb.Job:
        return convert.job_to_pb(await self._jobs.get(request.project_id, request.job_id))

    async def ListJobs(self, request: pb.ListJobsRequest, _: Context) -> pb.ListJobsResponse:
        query = JobQuery(
            project_id=checks.project_id(request.project_id),
            states=convert.job_states_from_pb(request.states),
            kinds=convert.job_kinds_from_pb(request.kinds),
            image_id=checks.uuid("image_id", request.image_id) if request.image_id else "",
        )

        async def page(size: int) -> pb.ListJobsResponse:
            jobs, token = await self._jobs.list(query, size, request.page_token)
            return pb.ListJobsResponse(jobs=map(convert.listed_job_to_pb, jobs), next_page_token=token)

        return await page_that_fits(page, lambda made: made.jobs, request.page_size)

    async def WatchJob(self, request: pb.WatchJobRequest, _: Context) -> AsyncIterator[pb.Job]:
        async for view in self._jobs.watch(checks.project_id(request.project_id), request.job_id):
            yield convert.job_to_pb(view)

    async def CancelJob(self, request: pb.CancelJobRequest, _: Context) -> pb.Job:
        return convert.job_to_pb(
            await self._jobs.cancel(checks.project_id(request.project_id), request.job_id)
        )
