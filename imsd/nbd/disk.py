"""A stored image as a disk that is read by several clients: loaded once for all, decoded, read ahead.

Chunks are loaded in runs of neighbours. Everything here runs on the event loop, but for what is given to the
decode pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from imsd.chunks.chunk_reader import ChunkReader
from imsd.chunks.decode_pool import ByteBudget, DecodePool
from imsd.chunks.manifest_reader import StoredChunk
from imsd.contract import BlobId, Buffer, DataLoss, ImsError, Unavailable
from imsd.formats.source import Extent, NeedBytes

from .chunk_places import ChunkPlaces
from .decoded_chunks import DecodedChunks
from .decoding import decoded

R = TypeVar("R")

# What is loaded and decoded in one go.
MAX_RUN_BYTES = 2 << 20

# A look at the allocation of a disk goes so far at most.
MAX_STATUS_BYTES = 1 << 30

CLOSE_SECONDS = 5.0

FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.1, 2.0

ReaderOpening = Callable[[], Awaitable[ChunkReader]]


@dataclass(slots=True)
class DiskStats:
    """Counters of a disk; bytes and chunks since it was opened."""

    fetched_bytes: int = 0
    cached_bytes: int = 0
    prefetched_bytes: int = 0
    memory_hits: int = 0
    memory_misses: int = 0
    errors: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """What all disks share: threads, the bytes being loaded, the chunks that were."""

    pool: DecodePool
    chunks: DecodedChunks
    store_wait_seconds: float


@dataclass(frozen=True, slots=True)
class DiskSource:
    """Where a disk is read. ``open_reader`` may be called again after it failed.

    ``budget``: bytes that may be under way from its store.
    ``distrust``: told that something of the manifest or of these packs, read since then
    (`time.monotonic`), is damaged; whether to read it again.
    """

    open_reader: ReaderOpening
    distrust: Callable[[Collection[BlobId], float], Awaitable[bool]]
    stats: DiskStats
    budget: ByteBudget


class Disk:
    """One manifest. ``number``: its own in this process."""

    def __init__(self, number: int, size_bytes: int, source: DiskSource, memory: Memory) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.stats = source.stats
        self._store_budget = source.budget
        self._memory = memory
        self._open_reader = source.open_reader
        self._distrust = source.distrust
        self._reader: ChunkReader | None = None
        self._opening: asyncio.Task[ChunkReader] | None = None
        self._places = ChunkPlaces(size_bytes, self._looked_up)
        self._loading: dict[int, asyncio.Future[None]] = {}  # by the chunk's start
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return self._reader is not None

    @property
    def is_busy(self) -> bool:
        """Whether anything is being loaded."""
        return bool(self._loading or self._places.asked)

    async def open(self) -> ChunkReader:
        """Once for all who ask. Raises what opening raises, for them all; then it may be tried again."""
        if self._reader is not None:
            return self._reader
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._trusted(self._open_reader))
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[ChunkReader]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._reader = opening.result()

    async def quiet(self) -> None:
        """Wait until nothing is being loaded."""
        while waiting := [*self._loading.values(), *self._places.asked]:
            await asyncio.wait(waiting)

    async def close(self) -> None:
        """End what is under way, without waiting long for it. The disk is not used afterwards."""
        tasks = [*self._tasks, *self._places.asked, *([self._opening] if self._opening else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            # One that a system call holds, of a file system that does not answer, say, holds nobody else.
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        self._memory.chunks.forget_disk(self.number)

    # -- reading -----------------------------------------------------------------------------------------

    def knows_places(self, start: int, length: int) -> bool:
        """Whether it is known where the chunks of the range are."""
        return self._places.are_known(start, length)

    def lacking(self, start: int, length: int) -> Sequence[asyncio.Future[None]]:
        """What a reader of the range waits for; none: `at_hand` has it all.

        When these are done, others may be lacking: the places of chunks first, then the chunks. One that
        fails raises what the reader is to be told: DataLoss, Unavailable.
        """
        places = self._places.ask(start, length)
        if places:
            return places
        loading: dict[asyncio.Future[None], None] = {}
        for chunk in self._places.chunks(start, length):
            if (self.number, chunk.start) in self._memory.chunks:
                self.stats.memory_hits += 1
            elif future := self._loading.get(chunk.start):
                loading[future] = None
        return [*loading, *self._begin_missing(start, length)]

    def load(self, start: int, length: int) -> None:
        """Begin to load a range for whoever asks for parts of it next: in runs as long as can be."""
        self._when_known(self._begin_missing, start, length)

    def load_ahead(self, start: int, length: int) -> None:
        """As `load`, for somebody who does not wait; nothing when others wait for memory or for places.

        How often that is asked for is not bounded by what is answered: no more than one range waits.
        """
        length = min(length, self.size_bytes - start)
        if length <= 0 or self._store_budget.waiting or self._memory.pool.budget.waiting:
            return
        if self._places.are_known(start, length):
            self.load(start, length)
        elif not self._places.asked:
            self._when_known(self.load_ahead, start, length)

    def at_hand(self, start: int, length: int) -> list[Buffer | int] | None:
        """The range in pieces: bytes, or so many zeros; None when something is lacking."""
        found: list[Buffer | int] = []
        position, end = start, start + length
        if not self._places.are_known(start, length):
            return None
        for chunk in self._places.chunks(start, length):
            first, last = chunk.start, chunk.end
            content = self._memory.chunks.get((self.number, first))
            if content is None:
                return None
            if position < first:
                found.append(first - position)
                position = first
            stop = min(last, end)
            is_whole = position == first and stop == last
            found.append(content if is_whole else memoryview(content)[position - first : stop - first])
            position = stop
        if position < end:
            found.append(end - position)
        return found

    async def read(self, start: int, length: int) -> list[Buffer | int]:
        """As `at_hand`, loaded if need be. Raises DataLoss, Unavailable."""
        while (found := self.at_hand(start, length)) is None:
            for future in self.lacking(start, length):
                await asyncio.shield(future)
        return found

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        """The allocation of the beginning of the range, as of `BlockSource`. Raises DataLoss, Unavailable."""
        return await self._trusted(self.patiently, self._extents, start, min(length, MAX_STATUS_BYTES))

    async def _extents(self, start: int, length: int) -> Sequence[Extent]:
        reader = await self.open()
        return await self._memory.pool.run(reader.extents, start, length)

    async def fetch(self, start: int, length: int) -> None:
        """Have the stored bytes of the range read from the store, and kept where they are kept."""
        reader = await self.open()
        pool = self._memory.pool
        found = await pool.run(reader.manifest.chunks, start, length)
        pieces = [(chunk.start, chunk.length) for chunk in found]
        async with self._room(sum(chunk.stored_length for chunk in found)):
            await pool.run(reader.require, pieces)

    async def patiently(self, function: Callable[..., Awaitable[R]], *arguments: object) -> R:
        """What it returns; while the store is out of reach, again and again for `store_wait_seconds`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._memory.store_wait_seconds
        pause = FIRST_WAIT_SECONDS
        while True:
            try:
                return await function(*arguments)
            except Unavailable as error:
                self.stats.last_error = error.message
                if loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_WAIT_SECONDS)

    async def _trusted(
        self, function: Callable[..., Awaitable[R]], *arguments: object, chunks: Sequence[StoredChunk] = ()
    ) -> R:
        """What it returns. What is damaged is read once more, if it may have become so on its way here."""
        began = time.monotonic()
        try:
            return await function(*arguments)
        except DataLoss:
            reader = self._reader
            packs = {reader.blob_of(chunk) for chunk in chunks} if reader else ()
            if not await self._distrust(packs, began):
                raise
        return await function(*arguments)

    async def _looked_up(self, start: int, length: int) -> Sequence[StoredChunk]:
        """The chunks of a part of the disk. Raises DataLoss, Unavailable."""
        try:
            return await self._trusted(self.patiently, self._chunks_of, start, length)
        except ImsError as error:
            self.stats.last_error = error.message
            raise

    async def _chunks_of(self, start: int, length: int) -> Sequence[StoredChunk]:
        reader = await self.open()
        return await self._memory.pool.run(reader.manifest.chunks, start, length)

    # -- loading --------------------------------------------------------------------------------------------

    def _when_known(self, begin: Callable[[int, int], object], start: int, length: int) -> None:
        """Call ``begin`` once it is known where the chunks of the range are; never, if looking fails."""

        def known(place: asyncio.Future[None]) -> None:
            # Of a failure those hear who wait for the same place.
            if not place.cancelled() and not place.exception() and self._places.are_known(start, length):
                begin(start, length)

        places = self._places.ask(start, length)
        for place in places:
            # Before those who wait for it, and ask next, are told.
            place.add_done_callback(known)
        if not places:
            begin(start, length)

    def _begin_missing(self, start: int, length: int) -> list[asyncio.Future[None]]:
        """Begin to load what of the range, whose places are known, is neither there nor being loaded."""
        missing = [
            chunk
            for chunk in self._places.chunks(start, length)
            if chunk.start not in self._loading and (self.number, chunk.start) not in self._memory.chunks
        ]
        self.stats.memory_misses += len(missing)
        return [self._begin_loading(run) for run in runs(missing)]

    def _begin_loading(self, run: Sequence[StoredChunk]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for chunk in run:
            self._loading[chunk.start] = future
        task = asyncio.ensure_future(self._load(run, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _load(self, run: Sequence[StoredChunk], future: asyncio.Future[None]) -> None:
        """Load neighbours, and tell those who wait."""
        error: Exception | None = ImsError("reading the disk failed: see the log of the block server")
        try:
            for chunk, content in zip(run, await self._undamaged(run), strict=True):
                if content is not None:
                    self._memory.chunks.put((self.number, chunk.start), content)
            error = None
        except ImsError as known:
            self.stats.last_error = known.message
            error = known
        except asyncio.CancelledError:
            error = Unavailable("the block server stops, or the disk is detached")
            raise
        finally:
            for chunk in run:
                del self._loading[chunk.start]
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # retrieved: perhaps nobody waits

    async def _undamaged(self, run: Sequence[StoredChunk]) -> Sequence[Buffer | None]:
        """The content of each; None: it is damaged, and others are not. Who wants it asks for it alone."""
        try:
            return await self._trusted(self.patiently, self._contents, run, chunks=run)
        except DataLoss:
            if len(run) == 1:
                raise
        found: list[Buffer | None] = []
        for chunk in run:
            try:
                found += await self.patiently(self._contents, [chunk])
            except DataLoss as error:
                found.append(None)
                lost = error
        if not any(content is not None for content in found):
            raise lost
        return found

    async def _contents(self, run: Sequence[StoredChunk]) -> list[Buffer]:
        reader = await self.open()
        # As much again for what is stored, which has to be at hand to be decoded.
        async with self._room(2 * sum(chunk.length for chunk in run)):
            try:
                # Asked here and not in a thread first: a turn of a thread costs more than the look.
                reader.require_chunks(run)
            except NeedBytes as need:
                source, ranges = need.source, need.ranges
            else:
                return await self._memory.pool.run(decoded, reader, run)
            async with source.fetching(ranges):
                return await self._memory.pool.run(decoded, reader, run)

    @asynccontextmanager
    async def _room(self, size_bytes: int) -> AsyncIterator[None]:
        """First what the store of this disk may have, so that one that does not answer stops no other."""
        async with self._store_budget.reserve(size_bytes), self._memory.pool.budget.reserve(size_bytes):
            yield


def runs(chunks: Sequence[StoredChunk]) -> list[list[StoredChunk]]:
    """Chunks in order, those without a gap between them together, up to `MAX_RUN_BYTES`."""
    found: list[list[StoredChunk]] = []
    for chunk in chunks:
        last = found[-1] if found else []
        if last and last[-1].end == chunk.start and chunk.end - last[0].start <= MAX_RUN_BYTES:
            last.append(chunk)
        else:
            found.append([chunk])
    return found
