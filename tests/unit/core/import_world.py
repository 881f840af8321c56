"""The whole way of an import in one process: uploads, the jobs that make images of them, stop and start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from imsd.chunks.spool import SpoolFolder
from imsd.contract import BlobStore, KeyService
from imsd.core.buckets import Buckets
from imsd.core.dispatcher import Dispatcher
from imsd.core.downloads import Outlet
from imsd.core.export_rules import ExportPolicy
from imsd.core.export_target import ExportTargets
from imsd.core.fetching import Fetching
from imsd.core.image_copies import ImageCopies
from imsd.core.image_exports import ImageExports
from imsd.core.image_jobs import ImageJobs
from imsd.core.image_making import ImageMaker
from imsd.core.job_board import JobBoard
from imsd.core.job_run import Workflow
from imsd.core.jobs import Jobs, JobView
from imsd.core.new_image import NewImage
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.stores.image_moves import ImageMoves
from imsd.core.stores.store_checks import StoreChecks
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import NewUpload, Uploads
from imsd.core.workflows.check_store import CheckStore
from imsd.core.workflows.copy_image import CopyImage
from imsd.core.workflows.create_image import CreateImage
from imsd.core.workflows.export_image import ExportImage
from imsd.core.workflows.move_image import MoveImage
from imsd.core.workflows.repack_store import RepackStore
from imsd.core.workflows.scrub_store import ScrubStore
from imsd.core.workflows.verify_image import VerifyImage
from imsd.guest.inspector import GuestInspector, Read
from imsd.guest.report import GuestReport, not_inspected
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, JobKind, JobState
from imsd.testing.faulty_store import FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, buckets_of, new_id, open_runtime, pool_of, sources_of
from tests.unit.metadata.samples import count

PROJECT = "default"
SECOND = "second"
MIB = 1 << 20
# What a finished import may leave in the database.
TABLES = ("image", "upload", "upload_part", "pack", "manifest", "pack_reference", "manifest_holder", "chunk")


class Blind(GuestInspector):
    """Needs no process of its own. Once it has been asked ``hold_at`` times it does not answer any more."""

    def __init__(self, hold_at: int) -> None:
        super().__init__()
        self._hold_at = hold_at
        self.asked = 0

    async def inspect(self, size_bytes: int, read: Read) -> GuestReport:
        self.asked += 1
        if self.asked == self._hold_at:
            await asyncio.Event().wait()
        return not_inspected("nobody looks")


class ImportService:
    """One run of a daemon's core."""

    def __init__(self, runtime: Runtime, roots: tuple[Path, ...], buckets: Buckets, hold_at: int) -> None:
        self.inspector = Blind(hold_at)
        self.runtime = runtime
        self.sweeper = Sweeper(runtime)
        self.uploads = Uploads(runtime, self.sweeper)
        sources, board = sources_of(runtime, *roots, buckets=buckets), JobBoard()
        workflow = CreateImage(self.uploads, self.sweeper, Fetching(sources), ImageMaker(self.inspector))
        workflows: dict[JobKind, Workflow] = {
            JobKind.CREATE_IMAGE: workflow,
            JobKind.COPY_IMAGE: CopyImage(self.sweeper, ImageMaker(self.inspector)),
            JobKind.CHECK_STORE: CheckStore(),
            JobKind.MOVE_IMAGE: MoveImage(self.sweeper),
            JobKind.VERIFY_IMAGE: VerifyImage(self.sweeper),
            JobKind.SCRUB_STORE: ScrubStore(),
            JobKind.REPACK_STORE: RepackStore(self.sweeper),
        }
        outlet = Outlet(runtime, self.sweeper, SpoolFolder(None, MIB))
        policy = ExportPolicy(runtime.limits, ("Ubuntu",))
        workflows[JobKind.EXPORT_IMAGE] = ExportImage(outlet, buckets, policy, ExportTargets())
        self.project_id = PROJECT  # of all that is asked for
        self.dispatcher = Dispatcher(runtime, board, workflows)
        self.jobs = Jobs(runtime, board, self.dispatcher)
        self.exports = ImageExports(runtime, self.dispatcher, buckets, policy)
        self.copies = ImageCopies(runtime, self.dispatcher)
        self.store_checks = StoreChecks(runtime, self.dispatcher)
        self.moves = ImageMoves(runtime, self.dispatcher)
        self.images = ImageJobs(runtime, self.dispatcher, self.uploads, sources)

    async def send(self, file: bytes, **wanted: Any) -> str:
        """A committed upload of ``file``."""
        record = await self.uploads.create(RequestKey(self.project_id, "", new_id()), NewUpload(**wanted))
        async with self.uploads.writing(self.project_id, record.id, 0) as session:
            for start in range(0, len(file), MIB):
                await session.write(file[start : start + MIB])
            await session.flush()
        await self.uploads.commit(self.project_id, record.id, len(file), "")
        return record.id

    async def start(self, **wanted: Any) -> str:
        """A job that makes an image."""
        return await self.images.create(
            RequestKey(self.project_id, "", new_id()), NewImage(**({"name": "disk"} | wanted))
        )

    async def import_file(self, file: bytes, **wanted: Any) -> JobView:
        """Send ``file`` and make an image of it; the job as it ended."""
        about_file = {key: wanted.pop(key) for key in ("expected_sha256", "store", "key") if key in wanted}
        upload_id = await self.send(file, disk_format=wanted.get("disk_format", ""), **about_file)
        return await self.end_of(await self.start(upload_id=upload_id, **wanted))

    async def end_of(self, job_id: str, project_id: str = "") -> JobView:
        project_id = project_id or self.project_id
        return [view async for view in self.jobs.watch(project_id, job_id)][-1]

    async def until(self, job_id: str, is_reached: Callable[[JobView], bool]) -> JobView:
        """Wait until a job is where a test wants it."""
        while not is_reached(view := await self.jobs.get(self.project_id, job_id)):
            assert not view.is_final, view
            await asyncio.sleep(0.001)
        return view

    async def image(self, image_id: str) -> ImageRecord:
        async with self.runtime.database.reading() as c:
            found = await image_rows.get_image(c, self.project_id, image_id)
        assert found is not None
        return found

    async def left(self) -> dict[str, int]:
        """Rows and blobs that are there when all work in the background is done."""
        while self.dispatcher._supervisors:
            await asyncio.sleep(0.001)
        await self.runtime.background.settle()
        blobs = 0
        for name in self.runtime.stores.ready_names():
            await self.sweeper.free(name)
            blobs += len([blob async for blob in self.runtime.stores.get(name).list()])
        rows = {table: await count(self.runtime.database, table) for table in TABLES}
        return {name: number for name, number in (rows | {"blobs": blobs}).items() if number}


class ImportWorld:
    """Runs of a daemon's core, one after the other, on one database and the same two stores."""

    def __init__(
        self,
        database: Database,
        roots: tuple[Path, ...] = (),
        buckets: Buckets | None = None,
        key_service: KeyService | None = None,
    ) -> None:
        self._database = database
        self.second = FaultyStore(MemoryStore())  # without a fault until a test adds one
        self._stores: dict[str, BlobStore] = {STORE: MemoryStore(), SECOND: self.second}
        self._roots = roots
        self._buckets = buckets or buckets_of()
        self._key_service = key_service

    @asynccontextmanager
    async def serving(self, *, hold_at: int = 0, **limits: Any) -> AsyncIterator[ImportService]:
        """A run; at its end it stops at once, and what it had not done is left to the next one.

        ``hold_at``: of the disks that are looked into, the one with which it stays.
        """
        stores = pool_of(**self._stores)
        async with open_runtime(self._database, stores, key_service=self._key_service) as runtime:
            runtime = replace(runtime, limits=replace(runtime.limits, **limits))
            service = ImportService(runtime, self._roots, self._buckets, hold_at)
            await service.dispatcher.start()
            try:
                yield service
            finally:
                await service.dispatcher.stop(0)


def failed(view: JobView) -> str:
    """The reason of a job that failed."""
    assert view.record.state is JobState.FAIL, view
    assert view.record.error_hint or view.record.error_reason in ("QUOTA_EXCEEDED", "CONFLICT"), view
    return view.record.error_reason
