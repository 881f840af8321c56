"""The store machine on real parts, two local stores and an index in SQL, with all that is done for stores.

To imports, crashes, zombies, readers and sweeps it adds copies, deletions that are taken back, walks after
orphans, packs that are distrusted, repacking and moves between stores: each one a call at a time, frozen or
killed at any of them. What must hold is the same: see `store_machine`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.chunks import garbage
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.manifest_reader import open_manifest
from imsd.chunks.pack_chunks import GROUP_PACKS, count_packs
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.relocate import Moving, Relocated, relocate
from imsd.contract import BlobStore, Conflict, DataLoss, NotFound
from tests.unit.chunks.index_world import SqlIndexWorld
from tests.unit.chunks.ingest_world import SparseDisk
from tests.unit.chunks.stepping import Actor, Gate, GatedIndex, GatedStore, InlinePool
from tests.unit.chunks.store_machine import DOMAIN, MAX_ACTORS, STORE, Job, StoredImage, StoreMachine

OTHER = "other"
STORES = (STORE, OTHER)


@dataclass
class UpkeepJob(Job):
    """A job that is no import. ``work``: what each run of it does."""

    work: Callable[[Holder, Gate], Awaitable[None]] | None = None


@dataclass(frozen=True)
class PlacedImage(StoredImage):
    store: str = STORE


class UpkeepMachine(StoreMachine):
    make_world = SqlIndexWorld
    world: SqlIndexWorld

    def __init__(self) -> None:
        super().__init__()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.stores: dict[str, BlobStore] = {}
        for name in STORES:
            opening = open_local_store(LocalStoreOptions(path=Path(folder, name)))
            self.stores[name] = self.loop.run_until_complete(self.stack.enter_async_context(opening))
        self.store = self.stores[STORE]  # where imports go
        self.deleted: dict[str, StoredImage] = {}  # not for good yet
        self.walks: dict[str, Actor] = {}
        self.sweeps: dict[str, Actor] = {}

    # -- what actors do ------------------------------------------------------------------------------

    def start_run(self, job: Job) -> None:
        if not isinstance(job, UpkeepJob):
            super().start_run(job)
            return
        gate = Gate()

        async def start() -> None:
            job.runs.append(Actor("upkeep", gate, self.run_upkeep(job, job.holder, gate)))

        self.loop.run_until_complete(start())

    async def run_upkeep(self, job: UpkeepJob, holder: Holder, gate: Gate) -> None:
        assert job.work
        try:
            await job.work(holder, gate)
            await gate.pass_through(lambda: self.end_upkeep(holder))
        except (Conflict, DataLoss):  # what a zombie reads may be gone
            assert not self.is_current(holder), (
                "a run that nobody took over was refused, or lost what it holds"
            )
            self.happened["an upkeep zombie was refused"] += 1

    async def end_upkeep(self, holder: Holder) -> None:
        if not self.is_current(holder):
            raise Conflict("another run has it")
        await self.world.end_job(holder)
        self.forget_job(holder)

    async def repack(self, holder: Holder, gate: Gate) -> None:
        """As the workflow: count, and write every manifest anew that lists a pack which is not all needed."""
        pool = InlinePool(1)
        store, index = GatedStore(self.stores[STORE], gate), GatedIndex(self.world.index, gate)
        try:
            listed = await gate.pass_through(lambda: self.world.listed_packs(STORE), is_final=False)
            groups = [
                dict(list(listed.items())[n : n + GROUP_PACKS]) for n in range(0, len(listed), GROUP_PACKS)
            ]
            uses = [use for group in groups for use in await count_packs(store, pool, group)]
            sizes = await gate.pass_through(lambda: self.world.pack_sizes(STORE), is_final=False)
            dead = frozenset(use.pack_id for use in uses if use.live_bytes < sizes.get(use.pack_id, 0))
            manifests = sorted({each for pack_id in dead for each in listed[pack_id]})
            for manifest_id in manifests:
                await self.relocated(holder, gate, manifest_id, dead, STORE, pool, index)
        finally:
            pool.close()

    async def relocated(
        self,
        holder: Holder,
        gate: Gate,
        manifest_id: str,
        packs: frozenset[str] | None,
        to_store: str,
        pool: InlinePool,
        index: GatedIndex,
    ) -> None:
        """One manifest anew; its images switch to that, all of them or, when one moves, the one."""
        try:
            name = await index.hold_manifest(holder, manifest_id)
        except NotFound:
            return
        source = GatedStore(self.stores[name], gate)
        manifest = await open_manifest(source, manifest_id, pool)
        target = IngestTarget(GatedStore(self.stores[to_store], gate), to_store, index, DOMAIN, holder)
        moved = await relocate(Moving(source, manifest, packs), pool, target, new_id=self.new_name)
        await gate.pass_through(lambda: self.switch(holder, manifest_id, moved, to_store, packs is None))

    async def switch(
        self, holder: Holder, manifest_id: str, moved: Relocated, to_store: str, is_move: bool
    ) -> None:
        named = [
            name
            for images in (self.images, self.deleted)
            for name, image in images.items()
            if image.manifest_id == manifest_id
        ]
        names = sorted(named)[:1] if is_move else named
        if names:
            await self.world.switch(holder, manifest_id, moved.written, names)
            for images in (self.images, self.deleted):
                for name in names:
                    if name in images:
                        images[name] = PlacedImage(
                            moved.written.manifest_id,
                            images[name].content,
                            frozenset(moved.written.packs),
                            to_store,
                        )
            self.happened["an image was moved" if is_move else "images were repacked"] += 1
        await self.world.index.release(holder)

    async def run_sweep_of(self, store: str, gate: Gate) -> None:
        await garbage.sweep(
            GatedStore(self.stores[store], gate),
            store,
            GatedIndex(self.world.index, gate),
            find_orphans=False,
        )

    async def run_walk(self, store: str, gate: Gate) -> None:
        await garbage.sweep_orphans(GatedStore(self.stores[store], gate), GatedIndex(self.world.index, gate))

    def actors(self) -> list[Actor]:
        beside = [actor for actor in (*self.walks.values(), *self.sweeps.values()) if not actor.task.done()]
        return super().actors() + beside

    def begin_upkeep(self, work: Callable[[Holder, Gate], Awaitable[None]]) -> UpkeepJob:
        job = UpkeepJob(self.loop.run_until_complete(self.world.begin_job()), SparseDisk(1, {}), work=work)
        self.jobs.append(job)
        self.start_run(job)
        return job

    def start_beside(self, running: dict[str, Actor], store: str, work: Any, steps: int) -> None:
        if (actor := running.get(store)) and not actor.task.done():
            return
        gate = Gate()

        async def start() -> None:
            running[store] = Actor("sweep", gate, work(store, gate))
            await running[store].step(steps)

        self.loop.run_until_complete(start())
        self.check_task(running[store])

    # -- rules -----------------------------------------------------------------------------------------

    @rule(piece=st.integers(0, 3))
    def leave_a_pack_mostly_dead(self, piece: int) -> None:
        """An image of two packs is gone, but for a piece that another image found in it."""
        before = set(self.images)
        self.import_at_once([4 + piece, piece, 5 + piece, 6 + piece])
        first = next(iter(set(self.images) - before), "")
        self.import_at_once([piece])
        if not first:
            return
        del self.images[first]
        self.loop.run_until_complete(self.world.index.release(Holder(HolderKind.IMAGE, first)))
        if self.is_sweeping():
            self.finish_sweep()
        self.sweep_at_once()

    @precondition(lambda self: self.images and len(self.actors()) < MAX_ACTORS)
    @rule(steps=st.integers(0, 60))
    def start_repacking(self, steps: int) -> None:
        actor = self.begin_upkeep(self.repack).runs[0]
        self.loop.run_until_complete(actor.step(steps))
        self.check_task(actor)

    @rule()
    def repack_at_once(self) -> None:
        if any(isinstance(job, UpkeepJob) for job in self.jobs):
            return  # one of a store at a time
        job = self.begin_upkeep(self.repack)
        self.loop.run_until_complete(job.runs[0].finish())
        self.check_task(job.runs[0])

    @precondition(lambda self: self.images and len(self.actors()) < MAX_ACTORS)
    @rule(choice=st.integers(0, 1000), steps=st.integers(0, 60))
    def start_move(self, choice: int, steps: int) -> None:
        image = self.images[sorted(self.images)[choice % len(self.images)]]
        to_store = OTHER if store_of(image) == STORE else STORE

        async def move(holder: Holder, gate: Gate) -> None:
            pool = InlinePool(1)
            try:
                index = GatedIndex(self.world.index, gate)
                await self.relocated(holder, gate, image.manifest_id, None, to_store, pool, index)
            finally:
                pool.close()

        actor = self.begin_upkeep(move).runs[0]
        self.loop.run_until_complete(actor.step(steps))
        self.check_task(actor)

    @rule(store=st.sampled_from(STORES), steps=st.integers(0, 20))
    def start_sweep_of(self, store: str, steps: int) -> None:
        if not (store == STORE and self.is_sweeping()):
            self.start_beside(self.sweeps, store, self.run_sweep_of, steps)

    @rule(store=st.sampled_from(STORES), steps=st.integers(0, 20))
    def start_walk(self, store: str, steps: int) -> None:
        self.start_beside(self.walks, store, self.run_walk, steps)

    @precondition(lambda self: self.images)
    @rule(choice=st.integers(0, 1000))
    def copy_image(self, choice: int) -> None:
        """Rows only: another image holds the manifest."""
        image = self.images[sorted(self.images)[choice % len(self.images)]]
        copy = Holder(HolderKind.IMAGE, self.new_name())
        self.loop.run_until_complete(self.world.index.hold_manifest(copy, image.manifest_id))
        self.images[copy.id] = image

    @precondition(lambda self: self.images)
    @rule(choice=st.integers(0, 1000))
    def delete_for_now(self, choice: int) -> None:
        name = sorted(self.images)[choice % len(self.images)]
        self.deleted[name] = self.images.pop(name)

    @precondition(lambda self: self.deleted)
    @rule(is_undeleted=st.booleans())
    def bring_back_or_purge(self, is_undeleted: bool) -> None:
        name, image = self.deleted.popitem()
        if is_undeleted:
            self.images[name] = image
        else:
            self.loop.run_until_complete(self.world.index.release(Holder(HolderKind.IMAGE, name)))

    @precondition(lambda self: self.images)
    @rule(choice=st.integers(0, 1000))
    def distrust(self, choice: int) -> None:
        """A scrub says that a pack is damaged: imports find nothing in it any more."""
        packs = sorted({pack_id for image in self.images.values() for pack_id in image.packs})
        self.loop.run_until_complete(self.world.index.distrust([packs[choice % len(packs)]]))

    # -- what is checked -------------------------------------------------------------------------------

    def blobs(self) -> set[str]:
        async def listed() -> set[str]:
            return {stored.id for store in self.stores.values() async for stored in store.list()}

        return self.loop.run_until_complete(listed())

    def living(self) -> list[StoredImage]:
        return [*super().living(), *self.deleted.values()]

    def store_with(self, image: StoredImage) -> BlobStore:
        return self.stores[store_of(image)]

    def sweep_at_once(self) -> None:
        for running in (self.sweeps, self.walks):
            for actor in running.values():
                self.loop.run_until_complete(actor.finish())
                self.check_task(actor)
        for name, store in self.stores.items():
            report = self.loop.run_until_complete(garbage.sweep(store, name, self.world.index))
            assert report.failure_count == 0
            if report.bytes_freed:
                self.happened["a sweep freed something"] += 1


def store_of(image: StoredImage) -> str:
    return image.store if isinstance(image, PlacedImage) else STORE
