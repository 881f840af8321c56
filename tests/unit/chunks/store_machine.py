"""A store and an index under imports, deletions, crashes, zombies and sweeps at once, beside a model.

Nothing referenced is ever lost: every living image, and every image that a reader holds, reads back as it
was stored. Nothing unreferenced stays: when all is over and a last sweep has run, the store has the blobs
of living images and the index their rows, and no others.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imsd.chunks import garbage
from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.index import Holder, HolderKind, content_blob, locations_blob, pack_blob
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.pack_writer import IngestTarget
from imsd.contract import BlobStore, Conflict
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.index_world import IndexWorld
from tests.unit.chunks.ingest_world import KIB, SparseDisk, noise
from tests.unit.chunks.stepping import Actor, Gate, GatedIndex, GatedStore, InlinePool

STORE = "main"
DOMAIN = "project-1"
# Two pieces of a disk fill a pack, so that an import has several and images share some.
PACK_BYTES = 100 * KIB
PIECE_BYTES = 48 * KIB
STRIDE_BYTES = 128 * KIB  # zeros between the pieces end a chunk, so equal pieces are equal chunks
MAX_ACTORS = 3

PIECES = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@dataclass(frozen=True)
class StoredImage:
    """An image of the model; ``blobs`` are those it needs."""

    manifest_id: str
    content: bytes
    packs: frozenset[str]

    @property
    def blobs(self) -> set[str]:
        parts = {content_blob(self.manifest_id), locations_blob(self.manifest_id)}
        return parts | {pack_blob(pack_id) for pack_id in self.packs}


@dataclass
class Job:
    """A job of the model that is not final; ``runs`` are its actors, all but the last one zombies."""

    holder: Holder
    disk: SparseDisk
    runs: list[Actor] = field(default_factory=list)


def make_disk(pieces: list[int]) -> SparseDisk:
    placed = {n * STRIDE_BYTES: noise(seed, PIECE_BYTES) for n, seed in enumerate(pieces)}
    return SparseDisk(max(1, len(pieces)) * STRIDE_BYTES, placed)


class StoreMachine(RuleBasedStateMachine):
    """``happened`` counts, over all runs, what a run must have met to prove anything."""

    make_world: Callable[[], IndexWorld]
    happened: ClassVar[Counter[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.happened = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("imsd.chunks.pack_writer.MAX_PACK_BYTES", PACK_BYTES)
        self.chance = random.Random(1)
        self.stack = AsyncExitStack()
        self.world = type(self).make_world()
        self.store: BlobStore = MemoryStore()
        self.loop.run_until_complete(self.world.open(self.stack))
        self.jobs: list[Job] = []
        self.zombies: list[Actor] = []  # runs of jobs that are final
        self.images: dict[str, StoredImage] = {}
        self.readers: dict[Holder, StoredImage] = {}
        self.sweeper: Actor | None = None
        self.names = 0

    # -- what actors do ------------------------------------------------------------------------------

    def new_name(self) -> str:
        """Random as real ids are, so that sweeps meet blobs in any order."""
        self.names += 1
        return f"{self.chance.getrandbits(96):024x}{self.names:08x}"

    async def run_import(self, holder: Holder, disk: SparseDisk, gate: Gate) -> None:
        pool = InlinePool(1)
        target = IngestTarget(
            GatedStore(self.store, gate), STORE, GatedIndex(self.world.index, gate), DOMAIN, holder
        )
        try:
            async with (
                ManifestWriter(target, self.new_name()) as writer,
                DiskIngest(pool, target, writer, new_id=self.new_name) as ingest,
            ):
                await ingest.copy_from(disk)
                result = await ingest.finish(disk.size_bytes)
                written = await writer.commit(disk.size_bytes, result.digest)
            packs = frozenset(written.packs)
            image = StoredImage(written.manifest_id, disk.content(), packs)
            await gate.pass_through(lambda: self.publish(holder, image))
        except Conflict:
            assert not self.is_current(holder), "a run that nobody took over was refused"
            self.happened["a zombie was refused"] += 1
        finally:
            pool.close()

    async def publish(self, holder: Holder, image: StoredImage) -> None:
        name = Holder(HolderKind.IMAGE, self.new_name())
        await self.world.publish(holder, image.manifest_id, name, image.packs)
        self.images[name.id] = image
        self.happened["an image was published"] += 1
        self.forget_job(holder)

    def forget_job(self, holder: Holder) -> None:
        """It is final: what still runs of it are zombies."""
        over = [job for job in self.jobs if job.holder == holder]
        self.jobs = [job for job in self.jobs if job.holder != holder]
        self.zombies += [actor for job in over for actor in job.runs]

    async def run_sweep(self, gate: Gate) -> None:
        store, index = GatedStore(self.store, gate), GatedIndex(self.world.index, gate)
        await garbage.sweep(store, STORE, index)

    def living(self) -> list[StoredImage]:
        """What must be there."""
        return list(self.images.values())

    def store_with(self, image: StoredImage) -> BlobStore:
        return self.store

    def is_current(self, holder: Holder) -> bool:
        return any(job.holder == holder for job in self.jobs)

    def actors(self) -> list[Actor]:
        everyone = [actor for job in self.jobs for actor in job.runs] + self.zombies
        return [actor for actor in (*everyone, self.sweeper) if actor and not actor.task.done()]

    def is_sweeping(self) -> bool:
        return self.sweeper is not None and not self.sweeper.task.done()

    def begin_import(self, pieces: list[int]) -> Job:
        job = Job(self.loop.run_until_complete(self.world.begin_job()), make_disk(pieces))
        self.jobs.append(job)
        self.start_run(job)
        return job

    def start_run(self, job: Job) -> None:
        gate = Gate()

        async def start() -> None:
            job.runs.append(Actor("import", gate, self.run_import(job.holder, job.disk, gate)))

        self.loop.run_until_complete(start())

    # -- rules -----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.actors()) < MAX_ACTORS)
    @rule(pieces=PIECES, steps=st.integers(0, 40))
    def start_import(self, pieces: list[int], steps: int) -> None:
        actor = self.begin_import(pieces).runs[0]
        self.loop.run_until_complete(actor.step(steps))
        self.check_task(actor)

    @rule(pieces=PIECES)
    def import_at_once(self, pieces: list[int]) -> None:
        job = self.begin_import(pieces)
        self.loop.run_until_complete(job.runs[0].finish())
        self.check_task(job.runs[0])

    @precondition(lambda self: not self.is_sweeping())
    @rule(steps=st.integers(0, 20))
    def start_sweep(self, steps: int) -> None:
        gate = Gate()

        async def start() -> None:
            self.sweeper = Actor("sweep", gate, self.run_sweep(gate))
            await self.sweeper.step(steps)

        self.loop.run_until_complete(start())
        self.check_task(self.sweeper)

    @precondition(lambda self: self.is_sweeping())
    @rule()
    def finish_sweep(self) -> None:
        assert self.sweeper
        self.loop.run_until_complete(self.sweeper.finish())
        self.check_task(self.sweeper)

    @precondition(lambda self: self.actors())
    @rule(choice=st.integers(0, 1000), steps=st.integers(1, 30))
    def go_on(self, choice: int, steps: int) -> None:
        actors = self.actors()
        actor = actors[choice % len(actors)]
        self.loop.run_until_complete(actor.step(steps))
        self.check_task(actor)

    @precondition(lambda self: self.actors())
    @rule(choice=st.integers(0, 1000))
    def crash(self, choice: int) -> None:
        """The process dies; what its jobs hold stays held."""
        actors = self.actors()
        self.loop.run_until_complete(actors[choice % len(actors)].kill())
        self.happened["a run crashed"] += 1

    @precondition(lambda self: self.jobs)
    @rule(choice=st.integers(0, 1000))
    def take_over(self, choice: int) -> None:
        """The job starts again; a run that was not killed goes on as a zombie."""
        job = self.jobs[choice % len(self.jobs)]
        job.holder = self.loop.run_until_complete(self.world.take_over(job.holder))
        self.start_run(job)

    @precondition(lambda self: self.jobs)
    @rule(choice=st.integers(0, 1000))
    def give_up(self, choice: int) -> None:
        job = self.jobs[choice % len(self.jobs)]
        self.loop.run_until_complete(self.world.end_job(job.holder))
        self.forget_job(job.holder)

    @precondition(lambda self: self.images)
    @rule(choice=st.integers(0, 1000))
    def delete_image(self, choice: int) -> None:
        name = sorted(self.images)[choice % len(self.images)]
        del self.images[name]
        self.loop.run_until_complete(self.world.index.release(Holder(HolderKind.IMAGE, name)))

    @precondition(lambda self: self.images and len(self.readers) < 2)
    @rule(choice=st.integers(0, 1000))
    def open_reader(self, choice: int) -> None:
        image = self.images[sorted(self.images)[choice % len(self.images)]]
        reader = Holder(HolderKind.READER, self.new_name())
        self.loop.run_until_complete(self.world.index.hold_manifest(reader, image.manifest_id))
        self.readers[reader] = image

    @precondition(lambda self: self.readers)
    @rule()
    def read_and_close(self) -> None:
        reader, image = self.readers.popitem()
        self.read_back(image)
        self.loop.run_until_complete(self.world.index.release(reader))

    @invariant()
    def nothing_referenced_is_lost(self) -> None:
        blobs = self.blobs()
        for image in (*self.living(), *self.readers.values()):
            assert image.blobs <= blobs

    # -- the end -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.close()

    def close(self) -> None:
        for actor in self.actors():
            self.loop.run_until_complete(actor.kill())
        self.patch.undo()
        self.loop.run_until_complete(self.stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def end(self) -> None:
        """Give every job up, sweep, let the zombies go on to their end, and sweep again."""
        for job in list(self.jobs):
            self.loop.run_until_complete(self.world.end_job(job.holder))
            self.forget_job(job.holder)
        for reader, image in self.readers.items():
            self.read_back(image)
            self.loop.run_until_complete(self.world.index.release(reader))
        if self.is_sweeping():
            self.finish_sweep()
        self.sweep_at_once()
        for actor in self.actors():
            self.loop.run_until_complete(actor.finish())
            self.check_task(actor)
        self.sweep_at_once()
        for image in self.living():
            self.read_back(image)
        assert self.blobs() == {blob for image in self.living() for blob in image.blobs}
        manifests = {image.manifest_id for image in self.living()}
        packs = {pack_id for image in self.living() for pack_id in image.packs}
        assert self.known_rows() == (manifests, packs)

    def sweep_at_once(self) -> None:
        sweep = garbage.sweep(self.store, STORE, self.world.index)
        report = self.loop.run_until_complete(sweep)
        assert report.failure_count == 0
        if report.bytes_freed:
            self.happened["a sweep freed something"] += 1

    def known_rows(self) -> tuple[set[str], set[str]]:
        """Of all ids that were ever used, those that still have a row."""
        chance, used = random.Random(1), []
        for number in range(1, self.names + 1):
            used.append(f"{chance.getrandbits(96):024x}{number:08x}")
        return self.loop.run_until_complete(self.world.index.known(used, used))

    def check_task(self, actor: Actor | None) -> None:
        if actor and actor.task.done() and not actor.task.cancelled():
            actor.task.result()

    def blobs(self) -> set[str]:
        async def listed() -> set[str]:
            return {stored.id async for stored in self.store.list()}

        return self.loop.run_until_complete(listed())

    def read_back(self, image: StoredImage) -> None:
        async def read() -> bytes:
            pool = InlinePool(1)
            try:
                async with open_chunk_reader(self.store_with(image), image.manifest_id, pool) as reader:
                    content = bytearray(reader.size_bytes)
                    await pool.run(reader.read_into, 0, memoryview(content))
                    return bytes(content)
            finally:
                pool.close()

        assert self.loop.run_until_complete(read()) == image.content
