"""Chunk indexes for the store machine: in memory and in SQL, with what the core does in its transactions."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import ChunkIndex, Holder, HolderKind
from imsd.chunks.manifest_writer import WrittenManifest
from imsd.metadata import jobs, pack_space, scrubs
from imsd.metadata.chunk_index import SqlChunkIndex, publish_manifest, release_holder, switch_manifest
from imsd.metadata.database import Database, open_database
from imsd.metadata.records import JobState
from imsd.testing.memory_index import MemoryChunkIndex
from tests.unit.metadata.samples import a_job, claimed, clock


class IndexWorld(ABC):
    """A chunk index, and what the core does in its transactions."""

    index: ChunkIndex

    @abstractmethod
    async def open(self, stack: AsyncExitStack) -> None: ...

    @abstractmethod
    async def begin_job(self) -> Holder:
        """A job that runs."""

    @abstractmethod
    async def take_over(self, job: Holder) -> Holder:
        """The same job, run by somebody else; the earlier run is a zombie from now on."""

    @abstractmethod
    async def end_job(self, job: Holder) -> None:
        """The job, of which this is the newest run, has failed, and holds nothing any more."""

    @abstractmethod
    async def publish(self, job: Holder, manifest_id: str, image: Holder, packs: Collection[str]) -> None:
        """Make the manifest live and held by the image, and end the job. Raises Conflict."""


class MemoryIndexWorld(IndexWorld):
    async def open(self, stack: AsyncExitStack) -> None:
        self.index = self._memory = MemoryChunkIndex()
        self._jobs = 0

    async def begin_job(self) -> Holder:
        self._jobs += 1
        return self._fenced(Holder(HolderKind.JOB, f"job-{self._jobs}", 1))

    async def take_over(self, job: Holder) -> Holder:
        return self._fenced(Holder(job.kind, job.id, job.fence + 1))

    async def end_job(self, job: Holder) -> None:
        await self.take_over(job)
        await self.index.release(job)

    async def publish(self, job: Holder, manifest_id: str, image: Holder, packs: Collection[str]) -> None:
        await self._memory.publish_manifest(job, manifest_id, packs)
        await self._memory.hold_manifest(image, manifest_id)
        await self.end_job(job)

    def _fenced(self, job: Holder) -> Holder:
        self._memory.fences[job.kind, job.id] = job.fence
        return job


class SqlIndexWorld(IndexWorld):
    _database: Database

    async def open(self, stack: AsyncExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self._database = await stack.enter_async_context(
            open_database(f"sqlite+aiosqlite:///{folder}/imsd.db")
        )
        self.index = SqlChunkIndex(self._database, clock)

    async def begin_job(self) -> Holder:
        record = a_job()
        async with self._database.transaction() as c:
            await jobs.insert_job(c, record)
            record = await claimed(c, record)
        return Holder(HolderKind.JOB, record.id, record.fence)

    async def take_over(self, job: Holder) -> Holder:
        async with self._database.transaction() as c:
            record = await claimed(c, a_job(id=job.id))
        return Holder(HolderKind.JOB, record.id, record.fence)

    async def end_job(self, job: Holder) -> None:
        async with self._database.transaction() as c:
            await self._end_job(c, job, JobState.FAIL)

    async def publish(self, job: Holder, manifest_id: str, image: Holder, packs: Collection[str]) -> None:
        async with self._database.transaction() as c:
            await publish_manifest(c, manifest_id=manifest_id, writer=job, image_id=image.id, packs=packs)
            await self._end_job(c, job, JobState.SUCCESS)

    async def switch(
        self, job: Holder, from_manifest: str, written: WrittenManifest, image_ids: Collection[str]
    ) -> None:
        """Let images hold another manifest of the same disk. Raises Conflict."""
        async with self._database.transaction() as c:
            await switch_manifest(
                c,
                from_manifest=from_manifest,
                to_manifest=written.manifest_id,
                writer=job,
                packs=written.packs,
                image_ids=image_ids,
            )

    async def listed_packs(self, store: str) -> dict[str, tuple[str, ...]]:
        """The live packs of a store that manifests list, with these."""
        packs = [each for each, _, _ in await self._packs(store)]
        async with self._database.reading() as c:
            return await pack_space.listed_by(c, packs)

    async def pack_sizes(self, store: str) -> dict[str, int]:
        return {pack_id: size for pack_id, _, size in await self._packs(store)}

    async def _packs(self, store: str) -> Sequence[tuple[str, datetime, int]]:
        async with self._database.reading() as c:
            return await scrubs.packs_after(c, store, None, 10_000)

    async def _end_job(self, c: AsyncConnection, job: Holder, state: JobState) -> None:
        ended = await jobs.move_job(c, job.id, [JobState.RUNNING], state, fence=job.fence, values={})
        assert ended is not None
        await release_holder(c, job)
