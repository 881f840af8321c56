"""Stores a disk whose pieces are kept as they came: records of 2 MiB, compressed by who made its file.

Nothing is cut and hardly anything compressed. But each record was decoded, so that its digest is that of its
plain bytes, like any chunk's, and the digest of the disk is the same as by any other way in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from imsd.formats.output import Packed

from .codec import Check, EncodedChunk, keep_record
from .cutter import Cut
from .decode_pool import DecodePool
from .entry import EntrySink
from .ingest_state import IngestState
from .ingest_steps import IngestSteps, NewChunk, Reached
from .layout import MAX_RECORD_BYTES
from .pack_writer import IngestTarget, new_random_id
from .tree_digest import LEAF_BYTES, TreeHasher

# A record, plain and as it came.
RECORD_COST_BYTES = 2 * MAX_RECORD_BYTES

_NOTHING = memoryview(b"")


class RecordIngest(IngestSteps):
    """A disk that comes as records and zeros, then `finish`.

    All but the last end where a leaf of the digest tree does, at 64 KiB.
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
        super().__init__(pool, target, sink, start or IngestState(0, TreeHasher().state()), new_id)

    async def add(self, record: Packed) -> None:
        """The next bytes of the disk, at most 2 MiB, with frames that were proved to decode to them."""
        self._reap()
        self._require_leaf()
        await self._pool.budget.acquire(RECORD_COST_BYTES)
        start = self._position
        self._position += len(record.plain)
        task = self._start_step(self._run_record(self._started_steps, start, record))
        task.add_done_callback(lambda _: self._pool.budget.release(RECORD_COST_BYTES))
        await self._make_room()

    async def write_zeros(self, length: int) -> None:
        """The next ``length`` bytes are zero."""
        self._reap()
        self._require_leaf()
        start = self._position
        self._position += length
        self._start_step(self._run_zeros(self._started_steps, start, length))
        await self._make_room()

    def _require_leaf(self) -> None:
        if self._position % LEAF_BYTES:
            raise ValueError(f"nothing follows the record that ends at {self._position}")

    def _submit(self) -> None:
        """Each record is a step at once."""

    async def _submit_last(self, size_bytes: int) -> None:
        """Each record was a step at once."""

    async def _reached(self, number: int, rest: bytes) -> Reached:
        return Reached()

    async def _run_record(self, number: int, start: int, record: Packed) -> None:
        cut = await self._pool.run(_cut, start, record.plain)
        await self._store(number, cut, partial(_kept, cut, record))

    async def _run_zeros(self, number: int, start: int, length: int) -> None:
        await self._store(number, _zeros(start, length), lambda chunks, check: [])


def _cut(start: int, plain: memoryview) -> Cut:
    length = len(plain)
    whole = length // LEAF_BYTES * LEAF_BYTES
    if not np.frombuffer(plain, np.uint8).any():
        return _zeros(start, length)
    return Cut(plain, start, [(start, length)], start + whole, tail=bytes(plain[whole:]))


def _zeros(start: int, length: int) -> Cut:
    whole, rest = divmod(length, LEAF_BYTES)
    return Cut(_NOTHING, start, [], start, whole, bytes(rest))


def _kept(cut: Cut, record: Packed, chunks: Sequence[NewChunk], check: Check) -> list[EncodedChunk]:
    """The record, if it is not known, in a thread of the pool."""
    return [
        keep_record(digest, cut.chunk(start, length), record.frames, check)
        for digest, start, length in chunks
    ]
