"""The sweeper: what one failure leaves undisturbed, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import NoReturn

import pytest

from imsd.chunks.index import Holder, HolderKind, pack_blob
from imsd.chunks.staged_source import staging_blob
from imsd.contract import BlobId, BlobStore, ByteRange, StoredBlob, Unavailable
from imsd.core.sweeper import JOB_AGE, Sweeper
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.records import JobState
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_index import MemoryChunkIndex
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import exists, put
from tests.unit.core.core_world import STORE, new_id, now, open_runtime, pool_of
from tests.unit.metadata.samples import a_job

JOB = Holder(HolderKind.JOB, "job")
PACK = "1" * 32
ORPHAN = "2" * 32


async def nothing() -> None:
    return None


class Endless(MemoryStore):
    """A store that is so large that nobody sees the end of its list."""

    def __init__(self) -> None:
        super().__init__()
        self.is_walked = asyncio.Event()

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        if prefix == "packs/" and self.is_armed:
            self.is_walked.set()
            await asyncio.Event().wait()
        async for stored in super().list(prefix, after):
            yield stored

    is_armed = False


class Unreachable(MemoryStore):
    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        raise Unavailable("the store does not answer")
        yield

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> NoReturn:
        raise ZeroDivisionError


async def abandoned_pack(store: BlobStore, index: MemoryChunkIndex) -> None:
    await index.begin_pack(JOB, PACK, STORE)
    await put(store, pack_blob(PACK), b"bytes")
    await index.release(JOB)


async def test_freeing_does_not_wait_for_a_walk_through_the_whole_store(database: Database) -> None:
    store, index = Endless(), MemoryChunkIndex()
    async with open_runtime(database, pool_of(main=store), index) as runtime:
        sweeper = Sweeper(runtime)
        await sweeper.tick(nothing)  # the store becomes this service's
        store.is_armed = True
        sweeper.start(3600, nothing)
        await asyncio.wait_for(store.is_walked.wait(), 5)
        await abandoned_pack(store, index)
        await asyncio.wait_for(sweeper.free(STORE), 2)
        assert not await exists(store, pack_blob(PACK))
        await sweeper.stop()


async def test_a_tick_frees_condemned_packs_orphans_and_staged_bytes(database: Database) -> None:
    store, index = MemoryStore(), MemoryChunkIndex()
    async with open_runtime(database, pool_of(main=store), index) as runtime:
        sweeper = Sweeper(runtime)
        await sweeper.tick(nothing)
        await abandoned_pack(store, index)
        await put(store, pack_blob(ORPHAN), b"bytes")
        await put(store, staging_blob(new_id(), 1), b"bytes")
        await sweeper.tick(nothing)
    left = {stored.id async for stored in store.list()}
    assert left == {"service-id"}


async def test_one_failure_does_not_end_the_round(database: Database) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    store, index = MemoryStore(), MemoryChunkIndex()
    async with open_runtime(database, pool_of(broken=Unreachable(), main=store), index) as runtime:
        sweeper = Sweeper(runtime)
        await sweeper.tick(nothing)
        await abandoned_pack(store, index)
        await put(store, pack_blob(ORPHAN), b"bytes")
        await sweeper.tick(fail)
    assert not await exists(store, pack_blob(PACK))
    assert not await exists(store, pack_blob(ORPHAN))


async def test_a_store_that_hangs_keeps_no_other_from_being_swept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsd.core.patience.TURN_SECONDS", 0.05)
    store, index = MemoryStore(), MemoryChunkIndex()
    hung = FaultyStore(MemoryStore(), Fault(call=Call.LIST, kind=FaultKind.HANG, times=None))
    async with open_runtime(database, pool_of(hung=hung, main=store), index) as runtime:
        sweeper = Sweeper(runtime)
        await asyncio.wait_for(sweeper.tick(nothing), 10)
        await abandoned_pack(store, index)
        await put(store, pack_blob(ORPHAN), b"bytes")
        await asyncio.wait_for(sweeper.tick(nothing), 10)
        assert not await exists(store, pack_blob(PACK))
        assert not await exists(store, pack_blob(ORPHAN))
        assert hung.hanging == 1  # it is not asked a second time
        await sweeper.stop()
        assert hung.hanging == 0


async def test_nobody_waits_for_ever_for_a_sweep_of_a_store_that_hangs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a job that was cancelled is cancelled at last. The sweep goes on when the store does."""
    monkeypatch.setattr("imsd.core.sweeper.FREE_SECONDS", 0.05)
    index = MemoryChunkIndex()
    hung = FaultyStore(MemoryStore())
    async with open_runtime(database, pool_of(main=hung), index) as runtime:
        await abandoned_pack(hung, index)
        hung.add(Fault(call=Call.DELETE, kind=FaultKind.HANG, times=None))
        await asyncio.wait_for(Sweeper(runtime).free(STORE), 10)
        assert await exists(hung, pack_blob(PACK))
        hung.heal()
        await runtime.background.settle()
        assert not await exists(hung, pack_blob(PACK))


async def test_jobs_that_ended_long_ago_are_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a few in each transaction."""
    monkeypatch.setattr("imsd.core.sweeper.FORGET_BATCH", 2)
    ended = now() - JOB_AGE - timedelta(minutes=1)
    old = [a_job(state=JobState.SUCCESS, finished_at=ended) for _ in range(5)]
    recent = a_job(state=JobState.FAIL, finished_at=now() - JOB_AGE + timedelta(minutes=1))
    running = a_job(state=JobState.RUNNING)
    async with database.transaction() as c:
        for record in (*old, recent, running):
            await job_rows.insert_job(c, record)
    async with open_runtime(database, pool_of()) as runtime:
        await Sweeper(runtime).tick(nothing)
    async with database.reading() as c:
        left = await job_rows.list_jobs(c, job_rows.JobQuery(project_id="lab"), 10, None)
    assert {record.id for record in left} == {recent.id, running.id}
