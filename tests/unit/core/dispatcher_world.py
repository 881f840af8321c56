"""A dispatcher whose one workflow does what the test says, against a real database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import ImsError
from imsd.core.background import Background
from imsd.core.dispatcher import Dispatcher
from imsd.core.job_board import JobBoard
from imsd.core.job_run import JobRun, Workflow
from imsd.core.jobs import Jobs, JobView
from imsd.core.keys.data_keys import DataKeys
from imsd.core.keys.key_pool import KeyPool
from imsd.core.page_token import PageTokens
from imsd.core.runtime import Runtime, ServiceLimits
from imsd.metadata import jobs as job_rows
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database
from imsd.metadata.records import JobKind, JobRecord, JobState


def now() -> datetime:
    return datetime.now(UTC)


class Scripted(Workflow):
    """Does what the test says, and notes what is undone."""

    def __init__(self, work: Callable[[JobRun], Awaitable[None]]) -> None:
        self._work = work
        self.undone: list[str] = []
        self.cleaned_up: list[JobState] = []
        self.clean_up_step: Callable[[], Awaitable[None]] | None = None

    async def run(self, run: JobRun) -> None:
        await self._work(run)
        async with run.runtime.database.transaction() as c:
            await run.succeed(c, {"answer": 42})

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        self.undone.append(error.reason if error else "CANCELLED")

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        self.cleaned_up.append(state)
        if self.clean_up_step:
            await self.clean_up_step()


class Service:
    """A dispatcher with a few slots, its board and the jobs as a caller sees them."""

    def __init__(self, database: Database, work: Callable[[JobRun], Awaitable[None]], slots: int = 1) -> None:
        self.runtime = Runtime(
            database=database,
            index=SqlChunkIndex(database, now),
            stores=None,  # type: ignore[arg-type]  # no job of this test touches a store
            keys=KeyPool(),
            data_keys=DataKeys(database, KeyPool(), now),
            pool=DecodePool(1),
            background=Background(),
            tokens=PageTokens(b"x" * 32),
            limits=ServiceLimits(
                max_virtual_size_bytes=1,
                max_upload_size_bytes=1,
                staging_quota_bytes=1,
                upload_part_bytes=1,
                upload_expiry=timedelta(hours=1),
                max_running_create_jobs=slots,
            ),
            region="local",
            service_id=str(uuid.uuid4()),
            instance_id=str(uuid.uuid4()),
            clock=now,
            new_id=lambda: str(uuid.uuid4()),
        )
        self.workflow = Scripted(work)
        board = JobBoard()
        self.dispatcher = Dispatcher(self.runtime, board, dict.fromkeys(JobKind, self.workflow))
        self.jobs = Jobs(self.runtime, board, self.dispatcher)

    async def add(self, project_id: str = "default", kind: JobKind = JobKind.CREATE_IMAGE) -> str:
        record = JobRecord(
            id=str(uuid.uuid4()),
            project_id=project_id,
            kind=kind,
            state=JobState.INIT,
            spec={},
            created_at=now(),
        )
        async with self.runtime.database.transaction() as c:
            await job_rows.insert_job(c, record)
        self.dispatcher.dispatch(record)
        return record.id

    async def end_of(self, job_id: str) -> JobView:
        views = [view async for view in self.jobs.watch("default", job_id)]
        return views[-1]


async def nothing(_: JobRun) -> None:
    return None


async def forever(_: JobRun) -> None:
    await asyncio.Event().wait()


async def left_cancelling(service: Service) -> str:
    """A job that the daemon was to cancel when it stopped."""
    job_id = await service.add()
    await is_running(service, job_id)
    await service.dispatcher.stop(0)
    async with service.runtime.database.transaction() as c:
        await job_rows.move_job(c, job_id, [JobState.RUNNING], JobState.CANCELLING, fence=None, values={})
    return job_id


async def is_running(service: Service, job_id: str) -> None:
    while (await service.jobs.get("default", job_id)).record.state is not JobState.RUNNING:
        await asyncio.sleep(0.01)


async def state_of(service: Service, job_id: str) -> JobState:
    return (await service.jobs.get("default", job_id)).record.state


async def is_free(service: Service) -> None:
    """Until no job is being looked after."""
    while service.dispatcher._supervisors:
        await asyncio.sleep(0.01)
