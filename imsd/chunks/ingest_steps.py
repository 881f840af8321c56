"""What ways of storing a disk have in common: steps that run side by side and take effect in order.

Each step is a task of its own: it digests its part of the disk, looks the chunks up, encodes the unknown
ones, then *in order* appends them to the pack and hands the entries to the sink. All work on bytes runs in
the decode pool, a few steps at once.

An exception of a step is raised by the next call; the ingest can then only be left.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from imsd.contract import settle

from .buffers import Turns
from .codec import Check, EncodedChunk, check_of, no_check
from .cutter import Cut, digest_cut
from .decode_pool import DecodePool
from .entry import ChunkEntry, EntrySink
from .index import Location
from .ingest_state import IngestResult, IngestState
from .lookup import ChunkLookup
from .pack_writer import IngestTarget, PackWriter, new_random_id
from .sealing import seal_chunks
from .tree_digest import LEAF_BYTES, TreeHasher

R = TypeVar("R")

# Two cores are busy with two steps; two more read, look up and write meanwhile.
MAX_STEPS = 4

OnProgress = Callable[[int], None]
# A chunk of a cut that is not known: its digest, where it starts, its length.
NewChunk = tuple[bytes, int, int]
# Chunks as they are to be stored, but for being sealed.
Encode = Callable[[Sequence[NewChunk], Check], list[EncodedChunk]]


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a checkpoint stands, in a leaf of the digest tree that no step has stored.

    ``started_leaf``: the bytes of it that are decided; ``undecided``: those that follow.
    """

    started_leaf: bytes = b""
    undecided: bytes = b""


class IngestSteps(ABC):
    """One disk on its way into a store; an async context manager, used by one task.

    Leaving without `finish` stops every task and thread and discards the open pack.
    """

    def __init__(
        self,
        pool: DecodePool,
        target: IngestTarget,
        sink: EntrySink,
        start: IngestState,
        new_id: Callable[[], str] = new_random_id,
    ) -> None:
        """Raises ValueError if ``start`` is damaged, or the target's cipher is not that of its domain."""
        target.require_cipher()
        self._pool = pool
        self._sink = sink
        self._cipher = target.cipher
        self._lookup = ChunkLookup(target.index, target.store_name, target.domain, target.holder)
        self._packs = PackWriter(target, new_id)
        self._tree = TreeHasher.from_state(start.tree)
        self._chunk_count, self._data_size = start.chunk_count, start.data_size
        self._old_size = start.new_size
        self._position = start.position
        self._rest = b""  # bytes before the position that are no whole block
        self._steps: deque[tuple[int, asyncio.Task[Any]]] = deque()  # with the position they reach
        self._started_steps = 0
        self._failure: BaseException | None = None  # of the first step that failed
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

    # -- reaching a state ----------------------------------------------------------------------------

    def begin_checkpoint(self, take: Callable[[], R]) -> Coroutine[Any, Any, tuple[IngestState, R]]:
        """Begin to store as much as is decided, while more bytes may be given. Await what is returned.

        Then everything before the state's position is durable, and ``take`` was called when the sink had the
        entries of that, and no others; its result comes with the state. The bytes after the position, at
        most 516 KiB, are part of the state. Each checkpoint ends a pack: take one in tens of MiB.
        Raises what a step raised before.
        """
        self._reap()
        self._submit()
        step = self._run_checkpoint(self._started_steps, self._rest, take)
        return self._durable(self._start_step(step))

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
        await self._submit_last(size_bytes)
        await self._drain()
        await self._packs.flush()
        digest = self._tree.digest()
        if self._cipher:
            digest = self._cipher.tree_digest(digest)
        return IngestResult(size_bytes, digest, self._chunk_count, self._data_size, self._new_size)

    @abstractmethod
    def _submit(self) -> None:
        """Begin the steps of all that was given."""

    @abstractmethod
    async def _submit_last(self, size_bytes: int) -> None:
        """Begin the last steps of a disk that ends here."""

    @abstractmethod
    async def _reached(self, number: int, rest: bytes) -> Reached:
        """Where the checkpoint that is step ``number`` stands, at its turn; ``rest`` came after all steps."""

    # -- steps -----------------------------------------------------------------------------------------

    @property
    def _new_size(self) -> int:
        return self._old_size + self._packs.new_size

    def _start_step(self, step: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(step)
        self._started_steps += 1
        self._steps.append((self._position, task))
        task.add_done_callback(self._stop_after_error)
        if self._failure:
            task.cancel()  # as those were that had started when it came
        return task

    def _stop_after_error(self, task: asyncio.Task[Any]) -> None:
        """Steps behind a failed one would wait for their turn and keep their buffers."""
        if not task.cancelled() and (error := task.exception()):
            self._failure = self._failure or error
            for _, step in self._steps:
                step.cancel()  # earlier ones too: what they store has no use any more

    async def _make_room(self, on_progress: OnProgress | None = None) -> None:
        self._reap(on_progress)
        while len(self._steps) >= MAX_STEPS:
            await asyncio.wait([self._steps[0][1]])  # unlike awaiting it, does not cancel it with us
            self._reap(on_progress)

    async def _drain(self, on_progress: OnProgress | None = None) -> None:
        while self._steps:
            await asyncio.wait([self._steps[0][1]])
            self._reap(on_progress)

    def _reap(self, on_progress: OnProgress | None = None) -> None:
        """Take leave of the steps that are done, oldest first; raises what one of them raised."""
        while self._steps and self._steps[0][1].done():
            position, task = self._steps.popleft()
            if task.cancelled() and self._steps:
                continue  # by a step behind it, which tells why
            task.result()
            if on_progress:
                on_progress(position)

    async def _run_checkpoint(
        self, number: int, rest: bytes, take: Callable[[], R]
    ) -> tuple[IngestState, R, asyncio.Task[None] | None]:
        """The state, what was taken, and the commit of the pack that ends here."""
        where = await self._reached(number, rest)
        await self._storing.reach(number)
        tree = TreeHasher.from_state(self._tree.state())
        tree.update(where.started_leaf)
        counts = (self._chunk_count, self._data_size, self._new_size)
        state = IngestState(tree.position, tree.state(), *counts, where.undecided)
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

    async def _store(self, number: int, cut: Cut, encode: Encode) -> None:
        """Store what ``cut`` decided; ``encode`` is asked for the new chunks, in the pool."""
        digests: list[bytes] = []
        leaves: list[bytes] = []
        if cut.chunks or cut.leaf_end > cut.base:
            digests, leaves = await self._pool.run(digest_cut, cut, self._cipher)
        known = await self._find(digests)
        new = {
            digest: (digest, start, length)
            for digest, (start, length) in zip(digests, cut.chunks, strict=True)
            if digest not in known
        }
        encoded = await self._pool.run(self._encoded, cut, list(new.values()), encode) if new else []
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

    def _encoded(self, cut: Cut, new: Sequence[NewChunk], encode: Encode) -> list[EncodedChunk]:
        """The new chunks of ``cut`` as they are to be stored, in a thread of the pool."""
        if self._cipher:
            return seal_chunks(self._cipher, cut, new, encode(new, no_check))
        return encode(new, check_of)

    async def _find(self, digests: Sequence[bytes]) -> dict[bytes, Location]:
        """Where the chunks lie that are stored already."""
        known = {digest: place for digest in digests if (place := self._packs.find_recent(digest))}
        unknown = list({digest: None for digest in digests if digest not in known})
        if unknown:
            known.update(await self._lookup.find(unknown))
        return known

    async def _abort(self) -> None:
        steps = [task for _, task in self._steps]
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        await self._packs.abort()


def _entries(cut: Cut, digests: Sequence[bytes], places: Mapping[bytes, Location]) -> list[ChunkEntry]:
    return [
        ChunkEntry(start, length, digest, places[digest])
        for digest, (start, length) in zip(digests, cut.chunks, strict=True)
    ]
