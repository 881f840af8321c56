"""Projects that share images: real jobs on a real database, without a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from imsd.core.dispatcher import Dispatcher
from imsd.core.job_board import JobBoard
from imsd.core.jobs import Jobs
from imsd.core.members import Members
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.workflows.change_members import AddMembers, RemoveMembers, UpdateMembers
from imsd.metadata import identity
from imsd.metadata import images as image_rows
from imsd.metadata import members as member_rows
from imsd.metadata.database import Database
from imsd.metadata.identity_records import ProjectRecord
from imsd.metadata.records import ImageRecord, JobKind, JobState, MemberStatus
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, new_id, now, open_runtime, pool_of
from tests.unit.metadata.samples import an_image

OWNER = "owner"


class SharingService:
    """Projects and their images; every change is a job that is waited for."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.database = runtime.database
        board = JobBoard()
        workflows = {
            JobKind.ADD_MEMBERS: AddMembers(),
            JobKind.UPDATE_MEMBERS: UpdateMembers(),
            JobKind.REMOVE_MEMBERS: RemoveMembers(),
        }
        self.dispatcher = Dispatcher(runtime, board, workflows)
        self.jobs = Jobs(runtime, board, self.dispatcher)
        self.members = Members(runtime, self.dispatcher)

    async def projects(self, *ids: str) -> None:
        async with self.database.transaction() as c:
            for each in ids:
                await identity.insert_project(c, ProjectRecord(id=each, description="", created_at=now()))

    async def image(self, **values: Any) -> str:
        record = an_image(**({"project_id": OWNER} | values))
        async with self.database.transaction() as c:
            await image_rows.insert_image(c, record)
        return record.id

    async def add(self, images: Sequence[str], projects: Sequence[str], by: str = OWNER) -> list[str]:
        """What became of each pair: ``done``, or the reason why not."""
        return await self.results_of(by, await self.members.add(key(by), images, projects))

    async def answer(self, by: str, images: Sequence[str], status: MemberStatus) -> list[str]:
        return await self.results_of(by, await self.members.update(key(by), images, status))

    async def remove(self, images: Sequence[str], projects: Sequence[str], by: str = OWNER) -> list[str]:
        return await self.results_of(by, await self.members.remove(key(by), images, projects))

    async def results_of(self, project_id: str, job_id: str) -> list[str]:
        [*_, last] = [view async for view in self.jobs.watch(project_id, job_id)]
        assert last.record.state is JobState.SUCCESS, last.record
        return [result.get("reason", "done") for result in last.record.result["members"]]

    async def status(self, image_id: str, project_id: str) -> MemberStatus | None:
        async with self.database.reading() as c:
            found = await member_rows.member_of(c, image_id, project_id)
        return None if found is None else found.status

    async def record(self, image_id: str) -> ImageRecord:
        async with self.database.reading() as c:
            found = await image_rows.get_image(c, OWNER, image_id)
        assert found is not None
        return found


def key(project_id: str, request_id: str = "") -> RequestKey:
    return RequestKey(project_id, request_id, new_id())


@asynccontextmanager
async def serving(database: Database, **limits: Any) -> AsyncIterator[SharingService]:
    async with open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime:
        service = SharingService(replace(runtime, limits=replace(runtime.limits, **limits)))
        await service.dispatcher.start()
        try:
            yield service
        finally:
            await service.dispatcher.stop(0)
            await asyncio.sleep(0)
