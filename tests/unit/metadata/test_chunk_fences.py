"""What a zombie may do in the chunk index: nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict
from imsd.metadata import chunk_index, jobs, uploads
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database
from imsd.metadata.records import JobRecord, JobState, UploadState
from tests.unit.metadata.samples import (
    a_job,
    chunks_of,
    claimed,
    clock,
    count,
    digest,
    job_holder,
    new_id,
    pack_id,
    upload_holder,
)

PACK, MANIFEST = pack_id(1), pack_id(100)


@pytest.fixture
def index(database: Database) -> SqlChunkIndex:
    return SqlChunkIndex(database, clock)


@pytest.fixture
async def job(database: Database) -> Holder:
    return await job_holder(database)


async def commit(index: SqlChunkIndex, holder: Holder, pack: str, *numbers: int) -> None:
    await index.begin_pack(holder, pack, "main")
    await index.commit_pack(holder, "lab", pack, 4096, chunks_of(pack, *numbers))


async def found(index: SqlChunkIndex, holder: Holder, *numbers: int, domain: str = "lab") -> list[int]:
    digests = {digest(number): number for number in numbers}
    return sorted(digests[key] for key in await index.find(holder, "main", domain, list(digests)))


T = TypeVar("T")

Step = Callable[[SqlChunkIndex, Holder], Awaitable[object]]

STEPS: dict[str, Step] = {
    "begin_pack": lambda index, holder: index.begin_pack(holder, pack_id(5), "main"),
    "commit_pack": lambda index, holder: index.commit_pack(holder, "lab", pack_id(2), 1, []),
    "find": lambda index, holder: index.find(holder, "main", "lab", [digest(1)]),
    "begin_manifest": lambda index, holder: index.begin_manifest(holder, pack_id(6), "main"),
    "hold_manifest": lambda index, holder: index.hold_manifest(holder, MANIFEST),
}


async def contents(database: Database) -> list[object]:
    tables = ("pack", "manifest", "chunk", "pack_reference", "manifest_holder")
    async with database.reading() as c:
        return [sorted((await c.execute(text(f"SELECT * FROM {table}"))).all()) for table in tables]


async def filled(index: SqlChunkIndex, database: Database, holder: Holder) -> list[object]:
    """A published pack, another one that ``holder`` writes, and what the tables hold now."""
    other = await job_holder(database)
    await commit(index, other, PACK, 1)
    await index.begin_manifest(other, MANIFEST, "main")
    async with database.transaction() as c:
        await chunk_index.publish_manifest(
            c, manifest_id=MANIFEST, writer=other, image_id=new_id(), packs=[PACK]
        )
    await index.begin_pack(holder, pack_id(2), "main")
    return await contents(database)


@pytest.mark.parametrize("step", STEPS)
async def test_a_job_that_was_taken_over_changes_nothing(
    index: SqlChunkIndex, job: Holder, database: Database, step: str
) -> None:
    before = await filled(index, database, job)
    async with database.transaction() as c:
        await claimed(c, record_of(job))
    with pytest.raises(Conflict, match="taken over"):
        await STEPS[step](index, job)
    assert await contents(database) == before


@pytest.mark.parametrize("step", STEPS)
async def test_a_job_that_is_being_cancelled_stores_nothing_more(
    index: SqlChunkIndex, job: Holder, database: Database, step: str
) -> None:
    before = await filled(index, database, job)
    async with database.transaction() as c:
        await jobs.move_job(c, job.id, [JobState.RUNNING], JobState.CANCELLING, fence=None, values={})
    with pytest.raises(Conflict):
        await STEPS[step](index, job)
    assert await contents(database) == before


@pytest.mark.parametrize("step", STEPS)
async def test_an_upload_with_a_newer_writer_changes_nothing(
    index: SqlChunkIndex, database: Database, step: str
) -> None:
    older = await upload_holder(database)
    before = await filled(index, database, older)
    async with database.transaction() as c:
        await uploads.take_over(c, older.id)
    with pytest.raises(Conflict, match="taken over"):
        await STEPS[step](index, older)
    assert await contents(database) == before


async def test_a_committed_upload_has_no_writer(index: SqlChunkIndex, database: Database) -> None:
    writer = await upload_holder(database)
    async with database.transaction() as c:
        await uploads.move_upload(c, writer.id, [UploadState.OPEN], UploadState.COMMITTED, writer.fence, {})
    with pytest.raises(Conflict):
        await index.begin_pack(writer, PACK, "main")


async def test_a_holder_that_does_not_exist_holds_nothing(index: SqlChunkIndex, database: Database) -> None:
    for kind in (HolderKind.JOB, HolderKind.UPLOAD):
        with pytest.raises(Conflict):
            await index.begin_pack(Holder(kind, new_id(), 1), PACK, "main")
    assert await count(database, "pack") == 0


async def test_a_job_taken_over_in_the_middle_of_a_commit_stops(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    """The zombie's first batch stands, its others do not; the newer run goes on with what is there."""
    await index.begin_pack(job, PACK, "main")
    newer: list[JobRecord] = []

    class TakenOver(Database):
        """Another run claims the job before the second transaction of the commit."""

        transactions = 0

        async def run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
            self.transactions += 1
            if self.transactions == 2:
                async with self.transaction() as c:
                    newer.append(await claimed(c, record_of(job)))
            return await super().run(work, *args, **kwargs)

    zombie = SqlChunkIndex(TakenOver(database._writer, database._readers, database._thread), clock)
    with pytest.raises(Conflict):
        await zombie.commit_pack(job, "lab", PACK, 1, chunks_of(PACK, *range(4100)))
    current = Holder(HolderKind.JOB, job.id, newer[0].fence)
    assert await found(index, current, *range(4096)) == list(range(2000))


def record_of(holder: Holder) -> JobRecord:
    return a_job(id=holder.id)
