"""Re-reads what is stored, blob by blob, and says which blobs are damaged; no key is needed.

A chunk has a check of its own as it is stored, a page of a manifest its digest, so stored bytes are proved
without decoding or decrypting them. That a chunk decodes to what its digest says is what `verify` proves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imsd.contract import BlobId, BlobStore, ByteRange, DataLoss

from .codec import check_of
from .decode_pool import DecodePool
from .entry_rows import Rows
from .index import pack_blob
from .layout import FOOTER
from .manifest_reader import ManifestPart, open_content, open_locations
from .pack_chunks import Spend, bytes_of_pages, offsets_of, page_runs, tables_bytes
from .store_read import read_blob

# Bytes of a pack that are read at once; over gaps of at most so many between chunks.
RUN_BYTES = 4 << 20
MAX_GAP_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class BlobDamage:
    """A damaged blob: ``offsets`` of its damaged chunks (empty: of a manifest), their bytes, one sentence."""

    blob: BlobId
    offsets: frozenset[int]
    damaged_bytes: int
    message: str


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What was read of one blob or more: bytes, chunks, and the damage."""

    read_bytes: int = 0
    chunks: int = 0
    damage: tuple[BlobDamage, ...] = ()


async def scrub_manifest(store: BlobStore, manifest_id: str, pool: DecodePool, spend: Spend) -> Scrubbed:
    """Read both parts of a manifest and compare their digests. Raises Unavailable."""
    read_bytes, parts, damage = 0, [], []
    for open_part in (open_content, open_locations):
        try:
            part = await open_part(store, manifest_id, pool)
            parts.append(part)
            read_bytes += await _read_pages(part, pool, spend)
        except DataLoss as error:
            damage.append(_of_manifest(_blob_of(manifest_id, open_part), error))
    if len(parts) == 2 and not damage and not parts[0].belongs_to(parts[1]):
        message = f"it does not belong to {parts[0].blob}, or one of them was altered"
        damage.append(_of_manifest(parts[1].blob, DataLoss(f"blob {parts[1].blob} is damaged: {message}")))
    return Scrubbed(read_bytes, 0, tuple(damage))


async def _read_pages(part: ManifestPart, pool: DecodePool, spend: Spend) -> int:
    await spend(tables_bytes(part))
    for numbers in page_runs(part):
        await spend(bytes_of_pages(part, numbers))
        await pool.run(_check_pages, part, numbers)
    return part.source.size_bytes


def _check_pages(part: ManifestPart, numbers: range) -> None:
    """Raises `NeedBytes`, DataLoss."""
    part.source.require([part.page_range(number) for number in numbers])
    for number in numbers:
        part.rows(number)


def _blob_of(manifest_id: str, open_part: object) -> BlobId:
    name = "content" if open_part is open_content else "locations-0"
    return BlobId(f"manifests/{manifest_id}/{name}")


def _of_manifest(blob: BlobId, error: DataLoss) -> BlobDamage:
    return BlobDamage(blob, frozenset(), FOOTER.size, error.message)


async def scrub_pack(
    store: BlobStore, pack_id: str, chunks: Rows, pool: DecodePool, spend: Spend
) -> Scrubbed:
    """Read ``chunks`` of a pack (rows of `CHUNK`, in order) and compare their checks. Raises Unavailable."""
    return await PackScrub(store, pack_blob(pack_id), chunks, pool, spend).run()


class PackScrub:
    """One run of `scrub_pack`."""

    def __init__(self, store: BlobStore, blob: BlobId, chunks: Rows, pool: DecodePool, spend: Spend) -> None:
        self._store = store
        self._blob = blob
        self._chunks = chunks
        self._starts = offsets_of(chunks)
        self._ends = self._starts + chunks["length"]
        self._pool = pool
        self._spend = spend
        self._damaged: dict[int, str] = {}

    async def run(self) -> Scrubbed:
        read_bytes = 0
        for first, last in _runs(self._starts, self._ends):
            place = self._place(first, last)
            await self._check(place, first, last)
            read_bytes += place.length
        return Scrubbed(read_bytes, len(self._chunks), self._damage())

    async def _check(self, place: ByteRange, first: int, last: int) -> None:
        await self._spend(place.length)
        try:
            [raw] = await read_blob(self._store, self._blob, [place])
        except DataLoss as error:
            if last - first == 1:
                self._damaged[first] = error.message
                return
            # The pack ends early, or is gone: each chunk for itself, to know which of them are lost.
            for number in range(first, last):
                await self._check(self._place(number, number + 1), number, number + 1)
            return
        for number in await self._pool.run(partial(self._altered, raw, place.offset, first, last)):
            self._damaged[number] = f"blob {self._blob} is damaged: bytes are not those that were written"

    def _altered(self, raw: bytes, base: int, first: int, last: int) -> list[int]:
        view = memoryview(raw)
        spans = zip(
            range(first, last),
            self._starts[first:last].tolist(),
            self._ends[first:last].tolist(),
            self._chunks["check"][first:last].tolist(),
            strict=True,
        )
        return [n for n, start, end, check in spans if check_of(view[start - base : end - base]) != check]

    def _place(self, first: int, last: int) -> ByteRange:
        start = int(self._starts[first])
        return ByteRange(start, int(self._ends[first:last].max()) - start)

    def _damage(self) -> tuple[BlobDamage, ...]:
        if not self._damaged:
            return ()
        numbers = sorted(self._damaged)
        offsets = frozenset(int(self._starts[number]) for number in numbers)
        damaged_bytes = int(self._chunks["length"][numbers].sum(dtype=np.uint64))
        return (BlobDamage(self._blob, offsets, damaged_bytes, self._damaged[numbers[0]]),)


def _runs(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Chunks, from one number to before another, that are read at once."""
    first, begin, end = 0, 0, 0
    for number, (start, stop) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if number > first and (start - end > MAX_GAP_BYTES or stop - begin > RUN_BYTES):
            yield first, number
            first = number
        if number == first:
            begin, end = start, stop
        end = max(end, stop)
    if len(starts):
        yield first, len(starts)
