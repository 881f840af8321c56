"""Stores a disk: cut by content, digested, deduplicated, compressed, packed, as its bytes flow.

The disk goes through windows (`buffers`). Each is a step of its own task: read and scan it, *in order*
cut it into chunks, digest them, look them up, compress the unknown ones, *in order* append them to the
pack and hand the entries to the sink. All work on bytes runs in the decode pool, a few steps at once.

An exception of a step is raised by the next call; the ingest can then only be left. A call that is
cancelled may have taken part of its bytes: leave the ingest, or go on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from imsd.contract import Buffer, settle
from imsd.formats.source import BlockSource

from .buffers import Turns, Window, window_buffers
from .chunker import BlockMarks, scan_blocks
from .codec import EncodedChunk, PlainChunk, border_in, encode_chunks
from .cutter import Cut, Cutter, digest_cut
from .decode_pool import DecodePool
from .entry import ChunkEntry, EntrySink
from .index import Location
from .ingest_state import IngestResult, IngestState
from .layout import BLOCK_BYTES
from .lookup import ChunkLookup
from .pack_writer import IngestTarget, PackWriter, new_random_id
from .tree_digest import LEAF_BYTES, TreeHasher
from .window_plan import Span, plan_ahead

R = TypeVar("R")

# Two cores are busy with two steps; two more read, look up and write meanwhile.
MAX_STEPS = 4

# A shorter run of zeros is put into the window: a step of its own costs more than scanning 1 MiB.
ZERO_STEP_BYTES = 1 << 20
_ZEROS = memoryview(bytes(ZERO_STEP_BYTES))

# A window that its writer does not fill for so long is worked on as it is: others need the memory.
IDLE_SECONDS = 0.25


class DiskIngest:
    """One disk on its way into a store; an async context manager, used by one task.

    Give it the bytes in order, by `write` and `write_zeros` or by `copy_from`, then `finish`. Leaving
    without `finish` stops every task and thread and discards the open pack.
    """

    def __init__(
        self,
        pool: DecodePool,
        target: IngestTarget,
        sink: EntrySink,
        *,
        start: IngestState | None = None,
        new_id: Callable[[], str] = new_random_id,
    ) -> None:
        """``start``: go on from there; raises ValueError if it is damaged."""
        self._pool = pool
        self._sink = sink
        self._buffers = window_buffers(pool.budget)
        self._lookup = ChunkLookup(target.index, target.domain, target.holder)
        self._packs = PackWriter(target, new_id)
        start = start or IngestState(0, TreeHasher().state())
        tree = TreeHasher.from_state(start.tree)
        self._cutter = Cutter(start.position, tree.started_leaf)
        self._tree = tree.whole_leaves()
        self._chunk_count, self._data_size = start.chunk_count, start.data_size
        self._old_size = start.new_size

        self._position = start.position
        self._filling: Window | None = None
        self._rest = b""  # bytes before the position that are no whole block
        self._idle_timer: asyncio.TimerHandle | None = None
        self._steps: deque[tuple[int, asyncio.Task[Any]]] = deque()  # with the position they reach
        self._started_steps = 0
        self._failure: BaseException | None = None  # of the first step that failed
        self._cutting = Turns()
        self._storing = Turns()

    @property
    def position(self) -> int:
        """Where the next byte goes."""
        return self._position

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await settle(asyncio.create_task(self._abort()))

    # -- taking bytes ------------------------------------------------------------------------------

    async def write(self, data: Buffer) -> None:
        """The next bytes of the disk. They are kept for a while: nobody changes them any more."""
        view = memoryview(data).cast("B")
        self._reap()
        self._stop_idle_timer()
        while view:
            window = self._filling or await self._open_window()
            taken = window.append(view)
            self._position += taken
            view = view[taken:]
            if not window.room:
                self._submit_window()
                await self._make_room()
        if self._filling and self._buffers.waiting:
            self._submit_window()
            await self._make_room()
        elif self._filling:
            self._idle_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._submit_window)

    async def write_zeros(self, length: int) -> None:
        """The next ``length`` bytes are zero; long runs cost nothing."""
        head = -self._position % LEAF_BYTES
        if length < ZERO_STEP_BYTES:
            await self.write(_ZEROS[:length])
            return
        await self.write(_ZEROS[:head])
        self._submit_window()
        self._skip_zeros((length - head) // LEAF_BYTES * LEAF_BYTES)
        await self._make_room()
        await self.write(_ZEROS[: (length - head) % LEAF_BYTES])

    async def copy_from(self, blocks: BlockSource, on_progress: Callable[[int], None] | None = None) -> None:
        """The rest of the disk, from the position to its end; it is stored when this returns.

        ``on_progress`` is called with the position up to which the disk is stored. Raises what the source
        raises (ImageRefused, and what fetching raises). The position is a multiple of 4 KiB.
        """
        await self.copy_range(blocks, blocks.size_bytes, on_progress)
        await self._drain(on_progress)

    async def copy_range(
        self,
        blocks: BlockSource,
        end: int,
        on_progress: Callable[[int], None] | None = None,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """As `copy_from`, up to ``end`` only: a multiple of 4 KiB, or the end of the disk and then `finish`.

        It stops before when ``is_enough``, asked after each window or run of zeros, says so. The last of it
        is still being read when this returns: ``blocks`` is needed until a checkpoint, or until the ingest
        is left.
        """
        self._submit_window()
        if self._rest:
            raise ValueError(f"a disk cannot be copied from byte {self._position}")
        async with aclosing(plan_ahead(self._pool, blocks, self._position, end)) as plan:
            async for spans in plan:
                for span in spans:
                    await self._copy_span(blocks, span)
                    await self._make_room(on_progress)
                    if is_enough():
                        return

    async def _copy_span(self, blocks: BlockSource, span: Span) -> None:
        if span.is_zero:
            self._skip_zeros(span.length)
            return
        window = await self._open_window()
        window.length = span.length
        self._position = span.end
        self._submit_window(blocks)

    # -- reaching a state ----------------------------------------------------------------------------

    def begin_checkpoint(self, take: Callable[[], R]) -> Coroutine[Any, Any, tuple[IngestState, R]]:
        """Begin to store as much as is decided, while more bytes may be given. Await what is returned.

        Then everything before the state's position is durable, and ``take`` was called when the sink had the
        entries of that, and no others; its result comes with the state. The bytes after the position, at
        most 516 KiB, are part of the state. Each checkpoint ends a pack: take one in tens of MiB.
        Raises what a step raised before.
        """
        self._reap()
        self._stop_idle_timer()
        self._submit_window()
        return self._durable(self._start_step(self._run_checkpoint(self._started_steps, self._rest, take)))

    async def checkpoint(self) -> IngestState:
        """`begin_checkpoint`, to its end."""
        state, _ = await self.begin_checkpoint(lambda: None)
        return state

    async def finish(self, size_bytes: int) -> IngestResult:
        """The disk is complete: all of it is durable when this returns.

        Raises ValueError if ``size_bytes`` is not the position.
        """
        if size_bytes != self._position:
            raise ValueError(f"{self._position} bytes of a disk of {size_bytes} were given")
        self._stop_idle_timer()
        if self._rest and not self._filling:
            await self._open_window()
        self._submit_window(is_last=True)
        self._start_step(self._run_end(self._started_steps, size_bytes))
        await self._drain()
        await self._packs.flush()
        return IngestResult(
            size_bytes, self._tree.digest(), self._chunk_count, self._data_size, self._new_size
        )

    # -- windows and steps -----------------------------------------------------------------------------

    @property
    def _new_size(self) -> int:
        return self._old_size + self._packs.new_size

    async def _open_window(self) -> Window:
        window = await self._buffers.take(self._position - len(self._rest))
        window.append(memoryview(self._rest))
        self._rest = b""
        self._filling = window
        return window

    def _submit_window(self, blocks: BlockSource | None = None, *, is_last: bool = False) -> None:
        """Work on the window as far as it is filled; without ``blocks`` its bytes are there already."""
        window, self._filling = self._filling, None
        if not window:
            return
        if not is_last and not blocks:
            self._rest = window.cut_off(window.length % BLOCK_BYTES)
        if not window.length:
            self._buffers.give_back(window)
            return
        task = self._start_step(self._run_window(self._started_steps, window, blocks))
        # Not in the step itself: one that is cancelled before it starts never gets to its `finally`.
        task.add_done_callback(lambda _: self._buffers.give_back(window))

    def _skip_zeros(self, length: int) -> None:
        if length:
            self._position += length
            self._start_step(self._run_zeros(self._started_steps, length))

    def _start_step(self, step: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(step)
        self._started_steps += 1
        self._steps.append((self._position, task))
        task.add_done_callback(self._stop_after_error)
        if self._failure:
            task.cancel()  # as those were that had started when it came
        return task

    def _stop_after_error(self, task: asyncio.Task[Any]) -> None:
        """Steps behind a failed one would wait for their turn and keep their windows."""
        if not task.cancelled() and (error := task.exception()):
            self._failure = self._failure or error
            for _, step in self._steps:
                step.cancel()  # earlier ones too: what they store has no use any more

    async def _make_room(self, on_progress: Callable[[int], None] | None = None) -> None:
        self._reap(on_progress)
        while len(self._steps) >= MAX_STEPS:
            await asyncio.wait([self._steps[0][1]])  # unlike awaiting it, does not cancel it with us
            self._reap(on_progress)

    async def _drain(self, on_progress: Callable[[int], None] | None = None) -> None:
        while self._steps:
            await asyncio.wait([self._steps[0][1]])
            self._reap(on_progress)

    def _reap(self, on_progress: Callable[[int], None] | None = None) -> None:
        """Take leave of the steps that are done, oldest first; raises what one of them raised."""
        while self._steps and self._steps[0][1].done():
            position, task = self._steps.popleft()
            if task.cancelled() and self._steps:
                continue  # by a step behind it, which tells why
            task.result()
            if on_progress:
                on_progress(position)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()

    async def _run_window(self, number: int, window: Window, blocks: BlockSource | None) -> None:
        marks = await self._pool.run(read_window, window, blocks)
        await self._cutting.reach(number)
        cut = self._cutter.window(window, marks)
        self._cutting.leave()
        await self._store(number, cut)

    async def _run_zeros(self, number: int, length: int) -> None:
        await self._cutting.reach(number)
        cut = self._cutter.zeros(length)
        self._cutting.leave()
        await self._store(number, cut)

    async def _run_checkpoint(
        self, number: int, rest: bytes, take: Callable[[], R]
    ) -> tuple[IngestState, R, asyncio.Task[None] | None]:
        """The state, what was taken, and the commit of the pack that ends here."""
        await self._cutting.reach(number)
        boundary, started_leaf = self._cutter.boundary, self._cutter.started_leaf
        undecided = self._cutter.undecided + rest
        self._cutting.leave()
        await self._storing.reach(number)
        tree = TreeHasher.from_state(self._tree.state())
        tree.update(started_leaf)
        counts = (self._chunk_count, self._data_size, self._new_size)
        state = IngestState(boundary, tree.state(), *counts, undecided)
        reached = state, take(), await self._packs.seal()
        self._storing.leave()
        return reached

    async def _durable(
        self, step: asyncio.Task[tuple[IngestState, R, asyncio.Task[None] | None]]
    ) -> tuple[IngestState, R]:
        """What a checkpoint's ``step`` reached, once its pack is committed."""
        await asyncio.wait([step])  # unlike awaiting it, does not cancel it with us
        if step.cancelled() and self._failure:
            raise self._failure  # of another step
        state, taken, commit = step.result()
        if commit:
            await asyncio.wait([commit])
            commit.result()
        return state, taken

    async def _run_end(self, number: int, size_bytes: int) -> None:
        await self._cutting.reach(number)
        await self._store(number, self._cutter.end(size_bytes))

    async def _store(self, number: int, cut: Cut) -> None:
        digests: list[bytes] = []
        leaves: list[bytes] = []
        if cut.chunks or cut.leaf_end > cut.base:
            digests, leaves = await self._pool.run(digest_cut, cut)
        known = await self._find(digests)
        encoded = await self._encode(cut, digests, known)
        await self._storing.reach(number)
        places = known | await self._packs.append(encoded)
        if digests:
            await self._sink.add(_entries(cut, digests, places))
        self._chunk_count += len(digests)
        self._data_size += sum(length for _, length in cut.chunks)
        self._tree.add_leaves(leaves)
        self._tree.zeros(cut.zero_leaves * LEAF_BYTES)
        self._tree.update(cut.tail)
        self._storing.leave()

    async def _find(self, digests: Sequence[bytes]) -> dict[bytes, Location]:
        """Where the chunks lie that are stored already."""
        known = {digest: place for digest in digests if (place := self._packs.find_recent(digest))}
        unknown = list({digest: None for digest in digests if digest not in known})
        if unknown:
            known.update(await self._lookup.find(unknown))
        return known

    async def _encode(
        self, cut: Cut, digests: Sequence[bytes], known: dict[bytes, Location]
    ) -> list[EncodedChunk]:
        """The chunks that are not known, each once, as they are to be stored."""
        new = {
            digest: PlainChunk(digest, cut.chunk(start, length), border_in(start, length))
            for digest, (start, length) in zip(digests, cut.chunks, strict=True)
            if digest not in known
        }
        return await self._pool.run(encode_chunks, list(new.values())) if new else []

    async def _abort(self) -> None:
        self._stop_idle_timer()
        steps = [task for _, task in self._steps]
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        if self._filling:
            self._buffers.give_back(self._filling)
            self._filling = None
        await self._packs.abort()


def read_window(window: Window, blocks: BlockSource | None) -> BlockMarks:
    """Read ``window`` from ``blocks``, or gather what was written to it, and scan it."""
    if blocks:
        blocks.read_into(window.start, window.content)
    else:
        window.gather()
    return scan_blocks(window.whole_blocks())


def _entries(cut: Cut, digests: Sequence[bytes], places: Mapping[bytes, Location]) -> list[ChunkEntry]:
    return [
        ChunkEntry(start, length, digest, places[digest])
        for digest, (start, length) in zip(digests, cut.chunks, strict=True)
    ]
