from __future__ import annotations

from imsd.core.dispatcher import Dispatcher
from imsd.core.image_jobs import ImageJobs
from imsd.core.job_board import JobBoard
from imsd.core.requests import RequestKey
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import Uploads
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.records import JobState
from tests.unit.core.core_world import open_runtime, pool_of, sources_of
from tests.unit.metadata.samples import an_image


def key(request_id: str) -> RequestKey:
    return RequestKey("lab", request_id, "fingerprint")


async def test_an_image_that_is_being_verified_gets_no_second_job(database: Database) -> None:
    image, other = an_image(), an_image()
    async with open_runtime(database, pool_of()) as runtime:
        dispatcher = Dispatcher(runtime, JobBoard(), {})
        await dispatcher.stop(0)  # the jobs stay where they are
        uploads = Uploads(runtime, Sweeper(runtime))
        image_jobs = ImageJobs(runtime, dispatcher, uploads, sources_of(runtime))
        first = await image_jobs.verify(key("one"), image)
        assert await image_jobs.verify(key("two"), image) == first
        assert await image_jobs.verify(key(""), image) == first
        assert await image_jobs.verify(key("three"), other) != first
        async with database.transaction() as c:
            await job_rows.claim_job(c, first, "me", runtime.clock(), runtime.clock())
            await job_rows.move_job(c, first, [JobState.RUNNING], JobState.SUCCESS, fence=None, values={})
        assert await image_jobs.verify(key("two"), image) == first  # the same request
        assert await image_jobs.verify(key("four"), image) != first
