"""Which chunks of some packs are needed, and by whom: gathered from the manifests that list the packs.

Nothing of it needs a key: a manifest says where its chunks lie and how they are checked as stored, whatever
is in them. A few packs are looked at together, `GROUP_PACKS` at most, so that memory is bounded: each
manifest that lists one of them is read once, in runs of pages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imsd.contract import BlobStore, DataLoss

from .decode_pool import DecodePool
from .entry_rows import Rows
from .index import PackUse
from .layout import CHECK_BYTES, LOCATION_ENTRY, MAX_PACK_BYTES
from .manifest_reader import ManifestPart, open_locations

# A pack has 500 chunks on average and 16,384 at most; each takes 32 bytes here.
GROUP_PACKS = 64

# 2.6 MiB of a manifest at once.
RUN_PAGES = 16

# The owner of a chunk that several manifests have.
SHARED = -1

# Told of so many bytes that are read; returns when more may be.
Spend = Callable[[int], Awaitable[None]]

CHUNK = np.dtype([("key", "<u8"), ("length", "<u4"), ("owner", "<i4"), ("check", f"V{CHECK_BYTES}")])


async def at_once(_: int) -> None:
    """A `Spend` that never waits."""


class PackChunks:
    """The distinct chunks of a group of packs that manifests list.

    ``chunks``: rows of `CHUNK` in the order of packs and offsets; a key is the number of the pack and the
    offset in it. ``damaged``: what is wrong with manifests that could not be read; of those the chunks are
    not known.
    """

    def __init__(self, listed: Mapping[str, Collection[str]]) -> None:
        """``listed``: the packs, with the manifests that list each."""
        if len(listed) > GROUP_PACKS:
            raise ValueError(f"{len(listed)} packs in a group, {GROUP_PACKS} are allowed")
        self.listed = listed
        self.pack_ids = list(listed)
        self.manifest_ids = sorted({manifest_id for ids in listed.values() for manifest_id in ids})
        self.damaged: dict[str, DataLoss] = {}
        self.chunks: Rows = np.empty(0, CHUNK)
        self._numbers = {pack_id: number for number, pack_id in enumerate(self.pack_ids)}

    async def gather(self, store: BlobStore, pool: DecodePool, spend: Spend = at_once) -> None:
        """Read every manifest. Raises Unavailable."""
        for owner, manifest_id in enumerate(self.manifest_ids):
            try:
                part = await open_locations(store, manifest_id, pool)
                await spend(tables_bytes(part))
                for numbers in page_runs(part):
                    await spend(bytes_of_pages(part, numbers))
                    await pool.run(self._add_pages, part, numbers, owner)
            except DataLoss as error:
                self.damaged[manifest_id] = error

    def of_pack(self, number: int) -> Rows:
        """The chunks of one pack, in the order of their offsets."""
        first, last = np.searchsorted(self.chunks["key"], _first_keys(number, number + 1)).tolist()
        return self.chunks[first:last]

    def uses(self) -> list[PackUse]:
        """What is needed of each pack. One that a damaged manifest lists counts as needed by it whole."""
        return [self._use(number, pack_id) for number, pack_id in enumerate(self.pack_ids)]

    def _use(self, number: int, pack_id: str) -> PackUse:
        if not self.damaged.keys().isdisjoint(self.listed[pack_id]):
            return PackUse(pack_id, MAX_PACK_BYTES, {})
        rows = self.of_pack(number)
        alone = rows[rows["owner"] != SHARED]
        sums = np.bincount(alone["owner"], alone["length"], len(self.manifest_ids)) if len(alone) else ()
        unique = {self.manifest_ids[owner]: int(size) for owner, size in enumerate(sums) if size}
        return PackUse(pack_id, int(rows["length"].sum(dtype=np.uint64)), unique)

    def _add_pages(self, part: ManifestPart, numbers: range, owner: int) -> None:
        """Raises `NeedBytes`, DataLoss."""
        part.source.require([part.page_range(number) for number in numbers])
        rows = np.concatenate([part.rows(number) for number in numbers])
        if (rows["pack"] >= len(part.pack_ids)).any():
            raise DataLoss(f"blob {part.blob} is damaged: it lists places that cannot be")
        ours = np.array([self._numbers.get(pack_id, -1) for pack_id in part.pack_ids], np.int64)
        packs = ours[rows["pack"]]
        is_ours = packs >= 0
        self.add(rows[is_ours], packs[is_ours], owner)

    def add(self, rows: Rows, packs: NDArray[np.int64], owner: int) -> None:
        """``rows`` of locations, in the packs of these numbers, that a manifest has."""
        keys = (packs.astype(np.uint64) << np.uint64(32)) | rows["offset"].astype(np.uint64)
        keys, at = np.unique(keys, return_index=True)
        places: NDArray[np.intp] = np.atleast_1d(np.searchsorted(self.chunks["key"], keys))
        is_known = np.zeros(len(keys), bool)
        inside = places < len(self.chunks)
        is_known[inside] = self.chunks["key"][places[inside]] == keys[inside]
        self._share(places[is_known], owner)
        if not is_known.all():
            fresh: NDArray[Any] = np.empty(int((~is_known).sum()), CHUNK)
            fresh["key"], fresh["owner"] = keys[~is_known], owner
            taken = rows[at[~is_known]]
            fresh["length"], fresh["check"] = taken["stored_length"], taken["check"]
            self.chunks = np.insert(self.chunks, places[~is_known], fresh)

    def add_indexed(self, pack_id: str, places: Sequence[tuple[int, int, bytes]]) -> None:
        """Chunks that a look-up may find, whoever has them: offset, stored length and check of each."""
        rows = np.zeros(len(places), LOCATION_ENTRY)
        if places:
            offsets, lengths, checks = zip(*places, strict=True)
            rows["offset"], rows["stored_length"] = offsets, lengths
            rows["check"] = np.frombuffer(b"".join(checks), rows["check"].dtype)
        numbers = np.full(len(places), self._numbers[pack_id], np.int64)
        self.add(rows, numbers, len(self.manifest_ids))

    def _share(self, places: NDArray[np.intp], owner: int) -> None:
        owners = self.chunks["owner"]
        owners[places] = np.where(owners[places] == owner, owner, SHARED)


def page_runs(part: ManifestPart) -> Iterator[range]:
    """The numbers of all pages, so many at once as are read together."""
    for first in range(0, len(part.pages), RUN_PAGES):
        yield range(first, min(first + RUN_PAGES, len(part.pages)))


def bytes_of_pages(part: ManifestPart, numbers: range) -> int:
    return sum(part.page_range(number).length for number in numbers)


def tables_bytes(part: ManifestPart) -> int:
    """What is read of a part when it is opened."""
    return part.source.size_bytes - bytes_of_pages(part, range(len(part.pages)))


def offsets_of(chunks: Rows) -> NDArray[np.int64]:
    """Where rows of `CHUNK` lie in their packs."""
    return (chunks["key"] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _first_keys(*numbers: int) -> NDArray[np.uint64]:
    """The lowest keys of packs."""
    return np.array([number << 32 for number in numbers], np.uint64)


async def count_packs(
    store: BlobStore, pool: DecodePool, listed: Mapping[str, Collection[str]]
) -> Sequence[PackUse]:
    """What is needed of each of these packs, at most `GROUP_PACKS`. Raises Unavailable."""
    group = PackChunks(listed)
    await group.gather(store, pool)
    return await pool.run(group.uses)


async def having_chunks(
    store: BlobStore,
    pool: DecodePool,
    pack_id: str,
    offsets: Collection[int],
    manifests: Sequence[str],
    spend: Spend = at_once,
) -> Sequence[str]:
    """Those of ``manifests`` that have one of the chunks at ``offsets`` of a pack. Raises Unavailable."""
    wanted, found = np.array(sorted(offsets), np.int64), []
    for manifest_id in manifests:
        group = PackChunks({pack_id: [manifest_id]})
        await group.gather(store, pool, spend)
        if np.isin(offsets_of(group.chunks), wanted).any():
            found.append(manifest_id)
    return found
