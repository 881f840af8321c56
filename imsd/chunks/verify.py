"""Re-reads a stored image, chunk by chunk, and says what is wrong with it.

Damage does not end the work: an operator wants to know all of it, not the first of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from imsd.contract import ByteRange, DataLoss

from .chunk_reader import ChunkReader
from .decode_pool import DecodePool
from .manifest_reader import StoredChunk
from .render import AsyncCall, in_order
from .tree_digest import HashedWindow, TreeHasher, hash_window

MAX_LISTED_DAMAGE = 100

WINDOW_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    """``length`` bytes of the disk from ``guest_offset`` cannot be read, because of a blob."""

    guest_offset: int
    length: int
    blob_id: str
    message: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was found. ``digest``: recomputed over the whole disk; empty when there is damage.

    ``damage``: the first `MAX_LISTED_DAMAGE` of ``damage_count``, in disk order; ``damaged_packs``: the ids
    of all packs that have some. Sizes in bytes; a chunk that the disk has twice is checked and counted twice.
    """

    chunks_checked: int = 0
    stored_bytes_checked: int = 0
    digest: str = ""
    damage: list[Damage] = field(default_factory=list)
    damage_count: int = 0
    damaged_packs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Checked:
    """A window of the disk that was read, or what is wrong with its chunks."""

    chunks: Sequence[StoredChunk]
    hashed: HashedWindow | None = None
    damage: Sequence[Damage] = ()
    damaged_packs: frozenset[str] = frozenset()


async def verify(
    reader: ChunkReader, pool: DecodePool, on_progress: Callable[[int], None] = lambda _: None
) -> VerifyResult:
    """Read and check every chunk, then the tree digest of the whole disk against the manifest's.

    ``reader`` compares digests, see `ChunkReader`.

    ``on_progress`` is told the plain bytes of chunks that were checked so far. Damage is a result, not an
    error. Raises Unavailable when the store cannot be reached.
    """
    return await Verification(reader, pool, on_progress).run()


class Verification:
    """One run of `verify`."""

    def __init__(self, reader: ChunkReader, pool: DecodePool, on_progress: Callable[[int], None]) -> None:
        self._reader = reader
        self._manifest = reader.manifest
        self._pool = pool
        self._on_progress = on_progress
        self._hasher = TreeHasher()
        self._result = VerifyResult()
        self._plain_bytes = 0

    async def run(self) -> VerifyResult:
        for number in range(self._manifest.page_count):
            await self._check_page(number)
        digest = ""
        if not self._result.damage_count:
            self._hasher.zeros(self._reader.size_bytes - self._hasher.position)
            digest = self._reader.digest_of(self._hasher)
        if digest and digest != self._reader.digest:
            wrong = f"every chunk is intact, but the disk has the digest {digest}, not {self._reader.digest}"
            self._note(Damage(0, self._reader.size_bytes, self._manifest.content.blob, wrong))
            digest = ""
        return replace(self._result, digest=digest)

    async def _check_page(self, number: int) -> None:
        place = self._manifest.guest_range(number)
        try:
            chunks = await self._pool.run(self._manifest.chunks, place.offset, place.length)
        except DataLoss as error:
            self._note(await self._page_damage(number, error))
            return
        windows: Iterator[AsyncCall[Checked]] = (
            partial(self._check_window, window, inside) for window, inside in cut_windows(chunks)
        )
        async with aclosing(in_order(self._pool, windows, lambda checked: 0)) as done:
            async for checked in done:
                self._take(checked)

    async def _page_damage(self, number: int, error: DataLoss) -> Damage:
        place = self._manifest.guest_range(number)
        for part in (self._manifest.content, self._manifest.locations):
            try:
                await self._pool.run(part.rows, number)
            except DataLoss as found:
                return Damage(place.offset, place.length, part.blob, found.message)
        return Damage(place.offset, place.length, self._manifest.content.blob, error.message)

    async def _check_window(self, window: ByteRange, chunks: Sequence[StoredChunk]) -> Checked:
        """Read a window at once; when that fails, chunk by chunk."""
        try:
            return await self._pool.run(self._read_window, window, chunks)
        except DataLoss:
            damage, packs = [], set()
            for chunk in chunks:
                try:
                    await self._pool.run(self._reader.check_chunk, chunk)
                except DataLoss as error:
                    blob = self._reader.blob_of(chunk)
                    damage.append(Damage(chunk.start, chunk.length, blob, error.message))
                    packs.add(self._manifest.pack_ids[chunk.pack])
            return Checked(chunks, damage=damage, damaged_packs=frozenset(packs))

    def _read_window(self, window: ByteRange, chunks: Sequence[StoredChunk]) -> Checked:
        content = np.empty(window.length, np.uint8).data
        self._reader.read_into(window.offset, content)
        return Checked(chunks, hash_window(window.offset, content))

    def _take(self, checked: Checked) -> None:
        for damage in checked.damage:
            self._note(damage)
        self._result = replace(
            self._result,
            chunks_checked=self._result.chunks_checked + len(checked.chunks),
            stored_bytes_checked=self._result.stored_bytes_checked
            + sum(chunk.stored_length for chunk in checked.chunks),
            damaged_packs=self._result.damaged_packs | checked.damaged_packs,
        )
        self._plain_bytes += sum(chunk.length for chunk in checked.chunks)
        self._on_progress(self._plain_bytes)
        if checked.hashed and not self._result.damage_count:
            self._hasher.add_window(checked.hashed)

    def _note(self, damage: Damage) -> None:
        listed = [*self._result.damage, damage][:MAX_LISTED_DAMAGE]
        self._result = replace(self._result, damage=listed, damage_count=self._result.damage_count + 1)


def cut_windows(chunks: Sequence[StoredChunk]) -> Iterator[tuple[ByteRange, list[StoredChunk]]]:
    """Windows of whole chunks, at most `WINDOW_BYTES` from first to last, with the chunks in them."""
    inside: list[StoredChunk] = []
    for chunk in chunks:
        if inside and chunk.end - inside[0].start > WINDOW_BYTES:
            yield ByteRange(inside[0].start, inside[-1].end - inside[0].start), inside
            inside = []
        inside.append(chunk)
    if inside:
        yield ByteRange(inside[0].start, inside[-1].end - inside[0].start), inside
