"""Stores a disk: cut, digested, deduplicated, packed, as its bytes flow.

The disk goes through windows (`buffers`). Each is a step (`ingest_steps`): read and scan it, *in order*
cut it into chunks, then store these. How it is cut and how chunks are encoded is a `Cutting`.

A call that is cancelled may have taken part of its bytes: leave the ingest, or go on from its last
checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from imsd.contract import Buffer
from imsd.formats.source import BlockSource

from .buffers import Turns, Window, window_buffers
from .chunker import BlockMarks, scan_blocks, scan_zeros
from .codec import Check, EncodedChunk, PlainChunk, border_in, encode_chunks
from .cutter import Cut, Cutter
from .decode_pool import DecodePool
from .entry import EntrySink
from .ingest_state import IngestState
from .ingest_steps import IngestSteps, NewChunk, OnProgress, Reached
from .layout import BLOCK_BYTES
from .pack_writer import IngestTarget, new_random_id
from .tree_digest import LEAF_BYTES, TreeHasher
from .window_plan import Span, plan_ahead

# A shorter run of zeros is put into the window: a step of its own costs more than scanning 1 MiB.
ZERO_STEP_BYTES = 1 << 20
_ZEROS = memoryview(bytes(ZERO_STEP_BYTES))

# A window that its writer does not fill for so long is worked on as it is: others need the memory.
IDLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a disk becomes chunks: ``scan`` marks its blocks, ``encode`` says how chunks are stored."""

    scan: Callable[[memoryview], BlockMarks]
    encode: Callable[[Sequence[PlainChunk], Check], list[EncodedChunk]]


# Chunks that are found again in other disks, compressed.
BY_CONTENT = Cutting(scan_blocks, encode_chunks)
# The longest chunks there are, for who wants a disk in quickly: no block is looked at for where to cut. They
# are compressed all the same: of a disk of programs that costs 1.3 times the processor time of an import
# (1.06 times the time, where there is enough of it), 0.37 of the room and a third of an export.
UNCUT = Cutting(scan_zeros, encode_chunks)


class DiskIngest(IngestSteps):
    """A disk that comes as bytes in order.

    Give it the bytes by `write` and `write_zeros` or by `copy_from`, then `finish`.
    """

    def __init__(
        self,
        pool: DecodePool,
        target: IngestTarget,
        sink: EntrySink,
        *,
        start: IngestState | None = None,
        cutting: Cutting = BY_CONTENT,
        new_id: Callable[[], str] = new_random_id,
    ) -> None:
        """``start``: go on from there, with the same ``cutting``; raises ValueError if it is damaged."""
        start = start or IngestState(0, TreeHasher().state())
        super().__init__(pool, target, sink, start, new_id)
        self._cutting_way = cutting
        self._buffers = window_buffers(pool.budget)
        if start.position % BLOCK_BYTES:
            raise ValueError(f"an ingest cannot stand at byte {start.position}")
        self._cutter = Cutter(start.position, self._tree.started_leaf)
        self._tree = self._tree.whole_leaves()
        self._filling: Window | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._cutting = Turns()

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

    async def copy_from(self, blocks: BlockSource, on_progress: OnProgress | None = None) -> None:
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
        on_progress: OnProgress | None = None,
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

    # -- windows and steps -----------------------------------------------------------------------------

    def _submit(self) -> None:
        self._stop_idle_timer()
        self._submit_window()

    async def _submit_last(self, size_bytes: int) -> None:
        self._stop_idle_timer()
        if self._rest and not self._filling:
            await self._open_window()
        self._submit_window(is_last=True)
        self._start_step(self._run_end(self._started_steps, size_bytes))

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

    def _stop_idle_timer(self) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()

    async def _run_window(self, number: int, window: Window, blocks: BlockSource | None) -> None:
        marks = await self._pool.run(read_window, window, blocks, self._cutting_way.scan)
        await self._cutting.reach(number)
        cut = self._cutter.window(window, marks)
        self._cutting.leave()
        await self._store(number, cut, partial(self._encode, cut))

    async def _run_zeros(self, number: int, length: int) -> None:
        await self._cutting.reach(number)
        cut = self._cutter.zeros(length)
        self._cutting.leave()
        await self._store(number, cut, partial(self._encode, cut))

    async def _run_end(self, number: int, size_bytes: int) -> None:
        await self._cutting.reach(number)
        cut = self._cutter.end(size_bytes)
        await self._store(number, cut, partial(self._encode, cut))

    async def _reached(self, number: int, rest: bytes) -> Reached:
        await self._cutting.reach(number)
        where = Reached(self._cutter.started_leaf, self._cutter.undecided + rest)
        self._cutting.leave()
        return where

    def _encode(self, cut: Cut, chunks: Sequence[NewChunk], check: Check) -> list[EncodedChunk]:
        """The chunks in the way of the cutting, in a thread of the pool."""
        plain = [
            PlainChunk(digest, cut.chunk(start, length), border_in(start, length))
            for digest, start, length in chunks
        ]
        return self._cutting_way.encode(plain, check)

    async def _abort(self) -> None:
        self._stop_idle_timer()
        await super()._abort()
        if self._filling:
            self._buffers.give_back(self._filling)
            self._filling = None


def read_window(
    window: Window, blocks: BlockSource | None, scan: Callable[[memoryview], BlockMarks] = scan_blocks
) -> BlockMarks:
    """Read ``window`` from ``blocks``, or gather what was written to it, and scan it."""
    if blocks:
        blocks.read_into(window.start, window.content)
    else:
        window.gather()
    return scan(window.whole_blocks())
