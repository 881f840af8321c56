"""A caller that leaves while its job is committed: the job is there, so it runs, whatever it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from imsd.core.image_changes import ImageRef
from imsd.core.image_copies import NewCopy
from imsd.core.image_file import ImageFile
from imsd.core.image_preparing import prepare_image
from imsd.core.new_image import NewImage
from imsd.core.requests import RequestKey
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.jobs import JobQuery
from imsd.metadata.records import JobState
from tests.unit.core.core_world import leave_at_commit, new_id
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld

DISK = random.Random(1).randbytes(MIB)


def key() -> RequestKey:
    return RequestKey(PROJECT, "", new_id())


@pytest.fixture
async def service(database: Database) -> AsyncIterator[ImportService]:
    async with ImportWorld(database).serving() as service:
        yield service


Start = Callable[[], Awaitable[str]]


async def create(service: ImportService) -> Start:
    upload_id = await service.send(DISK)
    return lambda: service.images.create(key(), NewImage(name="disk", upload_id=upload_id))


async def register(service: ImportService) -> Start:
    upload_id = await service.send(DISK)
    image = await prepare_image(service.runtime, key(), NewImage(name="disk"))
    return lambda: service.images.register(key(), ImageRef(PROJECT, image.id), ImageFile(upload_id=upload_id))


async def verify(service: ImportService) -> Start:
    image = await service.image((await service.import_file(DISK)).record.image_id)
    return lambda: service.images.verify(key(), image)


async def copy(service: ImportService) -> Start:
    image = await service.image((await service.import_file(DISK)).record.image_id)
    return lambda: service.copies.start(key(), NewCopy(image_id=image.id, name="copy"))


@pytest.mark.parametrize("prepare", [create, register, verify, copy])
async def test_a_job_whose_caller_leaves_while_it_is_committed_runs_all_the_same(
    service: ImportService,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[ImportService], Awaitable[Start]],
) -> None:
    start = await prepare(service)
    calling = asyncio.ensure_future(start())
    leave_at_commit(monkeypatch, calling)
    with pytest.raises(asyncio.CancelledError):
        await calling
    async with service.runtime.database.reading() as c:
        [newest] = await job_rows.list_jobs(c, JobQuery(project_id=PROJECT), 1, None)
    async with asyncio.timeout(30):
        assert (await service.end_of(newest.id)).record.state is JobState.SUCCESS
