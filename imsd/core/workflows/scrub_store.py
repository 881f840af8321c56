"""Scrub a store: re-read every stored byte that matters, at a limited rate, and say which images are damaged.

The story: first the manifests, their pages and tables; then the packs, the oldest first, each chunk by its
check. After each of them the place is remembered beside the store, not with the job: so a job that runs again
after a crash goes on there, and so does the next job after one that was cancelled or failed. What a pack has
that no manifest lists and no look-up finds is not read: nobody ever will.

A blob that turns out damaged although it was only deleted meanwhile is not told. In a damaged pack no import
finds a chunk any more, as after `verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.pack_chunks import GROUP_PACKS, PackChunks, having_chunks
from imsd.chunks.scrub import BlobDamage, Scrubbed, scrub_manifest, scrub_pack
from imsd.contract import ImsError
from imsd.core.job_run import JobRun, Workflow
from imsd.core.store_upkeep.pace import Pace
from imsd.metadata import pack_space, scrubs
from imsd.metadata.scrubs import DamageRecord, ScrubRecord

MANIFESTS_AT_ONCE = 100

# What a position has: the last manifest that is done, or the last pack.
MANIFESTS, PACKS = "manifest", "pack"

# What is counted, from the start of the scrub, whichever job did it.
NOTHING_YET = {"manifests": 0, "packs": 0, "chunks": 0, "read_bytes": 0, "pack_bytes": 0}


class ScrubStore(Workflow):
    """Its result is a report; damage is no failure of the job."""

    async def run(self, run: JobRun) -> None:
        scrub = await _begin(run)
        await scrub.manifests()
        await scrub.packs()
        await scrub.finish()

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        return None


async def _begin(run: JobRun) -> Scrub:
    """Where an earlier run, or an earlier job, came to; from the start if that is asked for."""
    runtime, spec = run.runtime, run.record.spec
    name = str(spec["store"])
    async with runtime.database.transaction() as c:
        await run.require_fence(c)
        record = await scrubs.get_scrub(c, name)
        is_own = record is not None and record.job_id == run.record.id
        if record is None or record.finished_at or (spec["is_anew"] and not is_own):
            await scrubs.begin_scrub(c, name, run.record.id, runtime.clock(), NOTHING_YET)
        elif not is_own:
            await scrubs.save_scrub(c, name, job_id=run.record.id)
        record = await scrubs.get_scrub(c, name)
        packed = await pack_space.packed_space(c, name)
    assert record is not None, "it was made above"
    run.enter("scrub", max(packed.pack_bytes, 1), (0.0, 100.0), record.report["pack_bytes"])
    return Scrub(run, record)


class Scrub:
    """One run over a store."""

    def __init__(self, run: JobRun, record: ScrubRecord) -> None:
        self._run = run
        self._name = record.store
        self._store = run.runtime.stores.get(record.store)
        self._started_at = record.started_at
        self._position = dict(record.position)
        self._report = dict(record.report)
        self._pace = Pace(int(run.record.spec["bytes_per_second"]))

    async def manifests(self) -> None:
        """Every manifest, in the order of ids; nothing when they are done."""
        runtime = self._run.runtime
        while PACKS not in self._position:
            after = self._position.get(MANIFESTS, "")
            async with runtime.database.reading() as c:
                ids = await scrubs.manifests_after(c, self._name, after, MANIFESTS_AT_ONCE)
            for manifest_id in ids:
                found = await scrub_manifest(self._store, manifest_id, runtime.pool, self._pace.spend)
                damage = await self._of_manifest(manifest_id, found.damage)
                await self._done({MANIFESTS: manifest_id}, found, damage, manifests=1)
            if not ids:
                self._position = {PACKS: None}

    async def packs(self) -> None:
        """Every pack, the oldest first: later ones are met too, if they come before the end."""
        runtime = self._run.runtime
        while True:
            async with runtime.database.reading() as c:
                packs = await scrubs.packs_after(c, self._name, self._after_pack(), GROUP_PACKS)
                listed = await pack_space.listed_by(c, [pack_id for pack_id, _, _ in packs])
            if not packs:
                return
            group = PackChunks({pack_id: listed.get(pack_id, ()) for pack_id, _, _ in packs})
            await group.gather(self._store, runtime.pool, self._pace.spend)
            for pack_id, created_at, size_bytes in packs:
                found = await self._pack(group, pack_id)
                damage = await self._of_pack(pack_id, found.damage)
                place = {PACKS: [created_at.isoformat(), pack_id]}
                await self._done(place, found, damage, packs=1, pack_bytes=size_bytes)
                self._run.advance(self._report["pack_bytes"])

    async def finish(self) -> None:
        """The report of this scrub is the last one; what it did not find again is forgotten."""
        run, now = self._run, self._run.runtime.clock()
        async with run.runtime.database.transaction() as c:
            await scrubs.forget_damage(c, self._name, self._started_at)
            damaged, affected = await scrubs.damage_counts(c, self._name, self._started_at)
            report = self._report | {"damaged_blobs": damaged, "affected_images": affected}
            values = {"report": report, "last_report": report, "finished_at": now, "last_finished_at": now}
            await scrubs.save_scrub(c, self._name, **values)
            await run.succeed(c, {"store": self._name, **report})

    async def _pack(self, group: PackChunks, pack_id: str) -> Scrubbed:
        runtime = self._run.runtime
        async with runtime.database.reading() as c:
            indexed = await scrubs.indexed_chunks(c, pack_id)
        await runtime.pool.run(group.add_indexed, pack_id, indexed)
        done = self._report["pack_bytes"]

        async def spend(size_bytes: int) -> None:
            nonlocal done
            await self._pace.spend(size_bytes)
            done += size_bytes
            self._run.advance(done)

        chunks = group.of_pack(group.pack_ids.index(pack_id))
        return await scrub_pack(self._store, pack_id, chunks, runtime.pool, spend)

    async def _of_pack(self, pack_id: str, damage: Sequence[BlobDamage]) -> list[DamageRecord]:
        """What of ``damage`` counts, by the manifests that need it; then no look-up finds it any more."""
        runtime, records = self._run.runtime, []
        for each in damage:
            await runtime.index.distrust([pack_id])
            async with runtime.database.reading() as c:
                is_live = await scrubs.is_live(c, pack_id=pack_id)
                listed = await pack_space.listed_by(c, [pack_id])
            if is_live:
                listing = listed.get(pack_id, ())
                needing = await having_chunks(
                    self._store, runtime.pool, pack_id, each.offsets, listing, self._pace.spend
                )
                records += [self._record(each, manifest_id) for manifest_id in needing or ("",)]
        return records

    async def _of_manifest(self, manifest_id: str, damage: Sequence[BlobDamage]) -> list[DamageRecord]:
        if not damage:
            return []
        async with self._run.runtime.database.reading() as c:
            is_live = await scrubs.is_live(c, manifest_id=manifest_id)
        return [self._record(each, manifest_id) for each in damage] if is_live else []

    def _record(self, damage: BlobDamage, manifest_id: str) -> DamageRecord:
        return DamageRecord(
            store=self._name,
            blob=damage.blob,
            manifest_id=manifest_id,
            chunk_count=len(damage.offsets),
            damaged_bytes=damage.damaged_bytes,
            message=damage.message,
            found_at=self._run.runtime.clock(),
        )

    async def _done(
        self, position: dict[str, Any], found: Scrubbed, damage: Sequence[DamageRecord], **counts: int
    ) -> None:
        """A blob more: remember where we are and what was found. Raises Conflict."""
        self._position = position
        for name, count in {"chunks": found.chunks, "read_bytes": found.read_bytes, **counts}.items():
            self._report[name] += count
        async with self._run.runtime.database.transaction() as c:
            await self._run.require_fence(c)
            await scrubs.put_damage(c, damage)
            await scrubs.save_scrub(c, self._name, position=position, report=dict(self._report))

    def _after_pack(self) -> tuple[datetime, str] | None:
        marker = self._position.get(PACKS)
        return (datetime.fromisoformat(marker[0]), str(marker[1])) if marker else None
