"""Repack a store: chunks that are needed leave packs that are mostly dead, so that these can go.

The story: what is needed of each pack is counted. Each manifest that lists a mostly dead pack is written
anew, with the same content and other places for those chunks, and in one transaction all its images switch to
the new one. Who reads the old one goes on reading it: it goes, and its packs with it, when nobody holds it
any more. No key is needed, because chunks travel as they are stored.

Each manifest is a step of its own. A job that runs again counts again, and finds less to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.cipher import DOMAIN_PREFIX
from imsd.chunks.manifest_reader import open_manifest
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.relocate import Moving, relocate
from imsd.contract import DataLoss, ImsError, NotFound
from imsd.core.job_run import JobRun, Workflow
from imsd.core.store_upkeep.counting import PackCounting
from imsd.core.sweeper import Sweeper
from imsd.metadata import chunk_index, repacking
from imsd.metadata.records import JobState

log = structlog.get_logger(__name__)

# Packs that one job empties: their ids are in memory, and the next job goes on.
MAX_PACKS = 4096

# Rounds of counting: while images come and go, there is always something left to count.
MAX_COUNTS = 100


@dataclass(slots=True)
class RepackReport:
    """``pack_count``, ``pack_bytes``, ``dead_bytes``: of the packs that were, or would be, emptied.

    ``manifests`` written anew, ``images`` that switched to them; ``copied_bytes``: as stored;
    ``skipped_manifests``: those with damage, which keep their packs.
    """

    store: str
    is_dry_run: bool
    pack_count: int = 0
    pack_bytes: int = 0
    dead_bytes: int = 0
    manifests: int = 0
    images: int = 0
    copied_bytes: int = 0
    skipped_manifests: int = 0


class RepackStore(Workflow):
    def __init__(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper

    async def run(self, run: JobRun) -> None:
        spec, database = run.record.spec, run.runtime.database
        report = RepackReport(str(spec["store"]), bool(spec["is_dry_run"]))
        percent = int(spec["dead_percent"])
        run.enter("count", 0, (0.0, 10.0))
        counting = PackCounting(run.runtime)
        for _ in range(MAX_COUNTS):
            if not await counting.count_store(report.store):
                break
        async with database.reading() as c:
            dead = await repacking.dead_packs(c, report.store, percent, MAX_PACKS)
            packs = [each.id for each in dead]
            manifests = await repacking.manifests_listing(c, packs)
            # Looked up before the first packs are left: then none of their chunks is found any more.
            leaving = _Leaving(frozenset(packs), await repacking.domains_of(c, packs))
        report.pack_count = len(dead)
        report.pack_bytes = sum(each.size_bytes for each in dead)
        report.dead_bytes = sum(each.dead_bytes for each in dead)
        if report.is_dry_run:
            report.manifests = len(manifests)
        else:
            await self._repack(run, report, leaving, manifests)
        async with database.transaction() as c:
            await chunk_index.release_holder(c, run.holder)
            await run.succeed(c, asdict(report))

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        await chunk_index.release_holder(c, run.holder)

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Free the packs that nobody needs any more; whoever cancels is told that nothing is left."""
        await self._sweeper.free(str(run.record.spec["store"]))

    async def _repack(
        self, run: JobRun, report: RepackReport, leaving: _Leaving, manifests: Sequence[str]
    ) -> None:
        run.enter("repack", max(report.pack_bytes - report.dead_bytes, 1), (10.0, 100.0))
        for number, manifest_id in enumerate(manifests):
            share = _Share(run, report.pack_bytes - report.dead_bytes, number, len(manifests))
            try:
                await self._write_anew(run, report, manifest_id, leaving, share)
            except NotFound:  # all its images were deleted meanwhile
                await _let_go(run)
            except DataLoss as error:
                log.warning("a damaged manifest keeps its packs", detail=error.message)
                report.skipped_manifests += 1
                await _let_go(run)
            share.advance(1, 1)
            # The old manifest goes now, and with the last one of a pack the pack, so that little lies twice.
            self._sweeper.wake(report.store)

    async def _write_anew(
        self, run: JobRun, report: RepackReport, manifest_id: str, leaving: _Leaving, share: _Share
    ) -> None:
        """Raises NotFound, DataLoss, Conflict, LimitExceeded, Unavailable."""
        runtime = run.runtime
        await runtime.index.hold_manifest(run.holder, manifest_id)
        async with runtime.database.reading() as c:
            images = await repacking.images_with(c, manifest_id)
        if not images:
            await _let_go(run)
            return
        store = runtime.stores.get(report.store)
        manifest = await open_manifest(store, manifest_id, runtime.pool)
        domain = leaving.domain_of(manifest.pack_ids)
        if not domain:  # sealed chunks are bound to their image, and known to nothing else
            domain = f"{DOMAIN_PREFIX}{images[0].id}" if manifest.is_encrypted else images[0].project_id
        target = IngestTarget(store, report.store, runtime.index, domain, run.holder)
        moved = await relocate(
            Moving(store, manifest, leaving.packs),
            runtime.pool,
            target,
            on_progress=lambda done: share.advance(done, images[0].data_size),
        )
        async with runtime.database.transaction() as c:
            await run.require_fence(c)
            written = moved.written
            switched = await repacking.switch_images(
                c, manifest_id, written.manifest_id, run.holder, written.packs, runtime.clock()
            )
            await chunk_index.release_holder(c, run.holder)
        report.manifests += bool(switched)
        report.images += switched
        report.copied_bytes += moved.copied_bytes


async def _let_go(run: JobRun) -> None:
    """Release what the job holds, if this is still its run: a newer one holds it by the same name."""
    async with run.runtime.database.transaction() as c:
        await run.require_fence(c)
        await chunk_index.release_holder(c, run.holder)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """Packs that are left; ``domains``: where their chunks were found, of each of which some were.

    They are of many projects: what a manifest has of them stays in the domain that it is in.
    """

    packs: frozenset[str]
    domains: Mapping[str, str]

    def domain_of(self, listed: Sequence[str]) -> str:
        """The domain of those packs that a manifest lists; empty when nothing of them was found."""
        return next((self.domains[pack_id] for pack_id in listed if pack_id in self.domains), "")


class _Share:
    """The progress of one manifest, as its part of the bytes that are to be copied."""

    def __init__(self, run: JobRun, total_bytes: int, number: int, count: int) -> None:
        self._run = run
        self._total_bytes = total_bytes
        self._number = number
        self._count = count

    def advance(self, done: int, whole: int) -> None:
        part = min(1.0, done / whole) if whole else 1.0
        self._run.advance(int(self._total_bytes * (self._number + part) / self._count))
