"""Deleting and undeleting: what forbids it, what comes back, and what is gone when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, FailedPrecondition, ImsError, LimitExceeded, NotFound
from imsd.core import quotas
from imsd.core.image_access import seen_image
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import PURGE_BATCH, ImageDeletion
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import members as member_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, ImageStatus, MemberRecord, MemberStatus, Visibility
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.metadata.samples import START, a_job, an_image, at, new_id

PROJECT = "lab"


@dataclass
class World:
    """Deletion at a time of the test's own."""

    runtime: Runtime
    deletion: ImageDeletion
    now: list[datetime] = field(default_factory=list)

    def wait(self, hours: float) -> None:
        self.now[0] += timedelta(hours=hours)

    async def put(self, *members: str, **values: Any) -> ImageRecord:
        record = an_image(manifest_id="m", **values)
        async with self.runtime.database.transaction() as c:
            await image_rows.insert_image(c, record)
            for project_id in members:
                await member_rows.insert_member(
                    c,
                    MemberRecord(
                        image_id=record.id,
                        project_id=project_id,
                        status=MemberStatus.ACCEPTED,
                        created_at=START,
                        updated_at=START,
                    ),
                )
        return record

    async def delete(self, record: ImageRecord, etag: str = "", *, is_final: bool = False) -> None:
        await self.deletion.delete(ImageRef(record.project_id, record.id, etag), is_final=is_final)

    async def undelete(self, record: ImageRecord) -> ImageRecord:
        return await self.deletion.undelete(ImageRef(record.project_id, record.id))

    async def row(self, record: ImageRecord) -> ImageRecord | None:
        async with self.runtime.database.reading() as c:
            return await image_rows.get_image(c, record.project_id, record.id)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    now = [at(0)]
    async with open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime:
        runtime = replace(runtime, clock=lambda: now[0])
        yield World(runtime, ImageDeletion(runtime, Sweeper(runtime)), now)


def without_grace(world: World) -> World:
    limits = replace(world.runtime.limits, undelete_time=timedelta())
    runtime = replace(world.runtime, limits=limits)
    return World(runtime, ImageDeletion(runtime, Sweeper(runtime)), world.now)


@pytest.mark.parametrize("is_final", [False, True])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"is_protected": True}, "IMAGE_PROTECTED"),
        ({"visibility": Visibility.PUBLIC}, "IMAGE_PUBLIC"),
        ({"is_published": True}, "IMAGE_PUBLISHED"),
        ({"status": ImageStatus.SAVING}, "FAILED_PRECONDITION"),
        ({"status": ImageStatus.QUEUED}, "FAILED_PRECONDITION"),
        ({"status": ImageStatus.DEACTIVATED, "is_protected": True}, "IMAGE_PROTECTED"),
        ({"status": ImageStatus.KILLED}, "NOT_FOUND"),
        ({"status": ImageStatus.DELETED}, "NOT_FOUND"),
    ],
)
async def test_what_may_not_be_deleted_stays(
    world: World, values: dict[str, Any], reason: str, is_final: bool
) -> None:
    record = await world.put(**values)
    with pytest.raises(ImsError) as refused:
        await world.delete(record, is_final=is_final)
    assert refused.value.reason == reason
    assert refused.value.hint
    assert await world.row(record) == record


async def test_only_the_owner_deletes_and_undeletes(world: World) -> None:
    record = await world.put("friend", visibility=Visibility.SHARED)
    for project_id, reason in (("friend", "NOT_OWNER"), ("stranger", "NOT_FOUND")):
        foreign = replace(record, project_id=project_id)
        for call in (world.delete, world.undelete):
            with pytest.raises(ImsError) as refused:
                await call(foreign)
            assert refused.value.reason == reason
    await world.delete(record)
    with pytest.raises(NotFound):
        await world.undelete(replace(record, project_id="friend"))


async def test_an_etag_of_another_version_deletes_nothing(world: World) -> None:
    record = await world.put()
    for etag in ("2", "999999999999999999"):
        with pytest.raises(Conflict):
            await world.delete(record, etag)
    for etag in ("x", "-1", "1" * 19, "\u0661", "1\0"):
        with pytest.raises(ImsError) as refused:
            await world.delete(record, etag)
        assert (refused.value.reason, refused.value.field) == ("INVALID_REQUEST", "etag")
    await world.delete(record, "1")


async def test_a_deleted_image_is_not_there_until_it_is_undeleted(world: World) -> None:
    record = await world.put(status=ImageStatus.DEACTIVATED, tags={"a": "b"}, family="f")
    await world.delete(record)
    async with world.runtime.database.reading() as c:
        with pytest.raises(NotFound):
            await seen_image(c, PROJECT, record.id)
    doomed = await world.row(record)
    assert doomed is not None
    assert (doomed.status, doomed.deleted_at) == (ImageStatus.PENDING_DELETE, at(0))
    assert doomed.purge_at == at(24 * 3600)
    with pytest.raises(NotFound):
        await world.delete(record)
    world.wait(23)
    back = await world.undelete(record)
    assert replace(back, version=1, updated_at=record.updated_at) == record
    with pytest.raises(FailedPrecondition, match="is not deleted"):
        await world.undelete(record)


async def test_deleting_ends_every_share(world: World) -> None:
    record = await world.put("friend", "other", visibility=Visibility.SHARED)
    await world.delete(record)
    back = await world.undelete(record)
    assert back.visibility is Visibility.PRIVATE
    async with world.runtime.database.reading() as c:
        assert await member_rows.member_counts(c, [record.id]) == {}
        with pytest.raises(NotFound):
            await seen_image(c, "friend", record.id)


async def test_undeleting_needs_room_in_the_quota(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await world.put()
    await world.delete(record)
    monkeypatch.setattr(quotas, "default_of", lambda *_: 1)
    other = await world.put()
    with pytest.raises(LimitExceeded) as refused:
        await world.undelete(record)
    assert refused.value.reason == "QUOTA_EXCEEDED"
    await world.delete(other)
    await world.undelete(record)


async def test_after_the_grace_time_it_is_gone_even_before_the_sweep(world: World) -> None:
    record = await world.put()
    await world.delete(record)
    world.wait(24)
    with pytest.raises(NotFound, match="grace time"):
        await world.undelete(record)
    await world.deletion.purge_due()
    assert await world.row(record) is None


@pytest.mark.parametrize("is_deleted_before", [False, True])
async def test_a_final_deletion_leaves_nothing(world: World, is_deleted_before: bool) -> None:
    record = await world.put("friend", visibility=Visibility.SHARED, tags={"a": "b"})
    async with world.runtime.database.transaction() as c:
        await hold_manifest(c, record)
    if is_deleted_before:
        await world.delete(record)
        assert await count(world, "manifest_holder") == 1
    await world.delete(record, is_final=True)
    assert await world.row(record) is None
    for table in ("manifest_holder", "image_member", "image_tag"):
        assert await count(world, table) == 0
    with pytest.raises(NotFound):
        await world.delete(record, is_final=True)


async def test_without_a_grace_time_it_is_gone_at_once(world: World) -> None:
    record = await world.put()
    await without_grace(world).delete(record)
    assert await world.row(record) is None


async def test_only_what_is_due_is_purged_and_all_of_it(world: World) -> None:
    early = [await world.put() for _ in range(PURGE_BATCH + 5)]
    late = await world.put()
    kept = await world.put()
    for record in early:
        await world.delete(record)
    world.wait(2)
    await world.delete(late)
    world.wait(22)
    await world.deletion.purge_due()
    assert [await world.row(record) for record in early] == [None] * len(early)
    assert await world.row(kept) == kept
    await world.undelete(late)


async def test_an_image_that_waits_for_its_bytes_is_deleted_at_once_unless_a_job_brings_them(
    world: World,
) -> None:
    job = a_job()
    async with world.runtime.database.transaction() as c:
        await job_rows.insert_job(c, job)
    waiting = await world.put(status=ImageStatus.QUEUED, is_prepared=True, job_id="")
    filling = await world.put(status=ImageStatus.QUEUED, is_prepared=True, job_id=job.id)
    failed = await world.put(status=ImageStatus.QUEUED, is_prepared=True, job_id=new_id())
    shielded = await world.put(status=ImageStatus.QUEUED, is_prepared=True, job_id="", is_protected=True)
    await world.delete(waiting)
    await world.delete(failed)
    assert [await world.row(waiting), await world.row(failed)] == [None, None]
    for record, reason in ((filling, "FAILED_PRECONDITION"), (shielded, "IMAGE_PROTECTED")):
        with pytest.raises(FailedPrecondition) as refused:
            await world.delete(record)
        assert refused.value.reason == reason


async def hold_manifest(c: Any, record: ImageRecord) -> None:
    await c.execute(
        text(
            "INSERT INTO manifest (id, store, state, created_at) "
            "VALUES (:id, 'main', 'live', '2026-01-01 00:00:00.000000')"
        ),
        {"id": "0" * 32},
    )
    holder = Holder(HolderKind.IMAGE, record.id)
    await c.execute(
        text("INSERT INTO manifest_holder (manifest_id, holder_kind, holder_id) VALUES (:m, :k, :h)"),
        {"m": "0" * 32, "k": holder.kind.value, "h": holder.id},
    )
    assert chunk_index


async def count(world: World, table: str) -> int:
    async with world.runtime.database.reading() as c:
        found = await c.execute(text(f"SELECT count(*) FROM {table}"))
        return int(found.scalar_one())
