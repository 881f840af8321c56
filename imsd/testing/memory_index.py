"""A chunk index in memory: the rules of `imsd.chunks.index`, for tests and for trials without a database.

Every method is one step of the event loop once it has started, as a transaction would be, and lets
other tasks run before it, as a database would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imsd.chunks.index import ChunkIndex, Doomed, Holder, HolderKind, IndexedChunk, Location
from imsd.contract import Conflict, NotFound

FENCED = (HolderKind.JOB, HolderKind.UPLOAD)
MAX_DIGESTS = 4096

HolderName = tuple[HolderKind, str]


@dataclass(slots=True)
class MemoryRow:
    """A pack or a manifest; ``state`` is writing, live or condemned."""

    store: str
    state: str = "writing"
    size_bytes: int = 0
    held_by: set[HolderName] = field(default_factory=set)


class MemoryChunkIndex(ChunkIndex):
    """``packs``, ``manifests`` and ``chunks`` may be looked at; ``fences`` may be set.

    A job or upload without an entry in ``fences`` has whatever fence it says.
    """

    def __init__(self) -> None:
        self.packs: dict[str, MemoryRow] = {}
        self.manifests: dict[str, MemoryRow] = {}
        self.chunks: dict[tuple[str, str, bytes], Location] = {}
        self.fences: dict[HolderName, int] = {}

    async def begin_pack(self, holder: Holder, pack_id: str, store: str) -> None:
        await self._enter(holder)
        if pack_id in self.packs:
            raise Conflict(f"pack {pack_id} exists already")
        self.packs[pack_id] = MemoryRow(store, held_by={_name(holder)})

    async def commit_pack(
        self, holder: Holder, domain: str, pack_id: str, size_bytes: int, chunks: Sequence[IndexedChunk]
    ) -> None:
        await self._enter(holder)
        row = self.packs.get(pack_id)
        if row is None or row.state != "writing":
            raise Conflict(f"pack {pack_id} is not being written")
        row.state, row.size_bytes = "live", size_bytes
        for chunk in chunks:
            self.chunks.setdefault((row.store, domain, chunk.digest), chunk.location)

    async def find(
        self, holder: Holder, store: str, domain: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, Location]:
        if len(digests) > MAX_DIGESTS:
            raise ValueError(f"{len(digests)} digests in one look-up, {MAX_DIGESTS} are allowed")
        await self._enter(holder)
        found = {}
        for digest in digests:
            location = self.chunks.get((store, domain, digest))
            if location is not None and self.packs[location.pack_id].state == "live":
                self.packs[location.pack_id].held_by.add(_name(holder))
                found[digest] = location
        return found

    async def begin_manifest(self, holder: Holder, manifest_id: str, store: str) -> None:
        await self._enter(holder)
        if manifest_id in self.manifests:
            raise Conflict(f"manifest {manifest_id} exists already")
        self.manifests[manifest_id] = MemoryRow(store, held_by={_name(holder)})

    async def publish_manifest(self, holder: Holder, manifest_id: str, packs: Iterable[str]) -> None:
        """Make a manifest live and let it reference ``packs``: part of the transaction that makes an image.

        Raises Conflict, also when a pack is not live or is not held by ``holder``.
        """
        await self._enter(holder)
        rows = [self.packs.get(pack_id) for pack_id in packs]
        held = [row for row in rows if row and row.state == "live" and _name(holder) in row.held_by]
        if len(held) != len(rows) or self.manifests[manifest_id].state != "writing":
            raise Conflict(f"manifest {manifest_id} lists a pack that may go, or is not being written")
        self.manifests[manifest_id].state = "live"
        for row in held:
            row.held_by.add((HolderKind.MANIFEST, manifest_id))

    async def hold_packs_of(self, holder: Holder, manifest_id: str) -> None:
        await self._enter(holder)
        row = self.manifests.get(manifest_id)
        if row is None or row.state != "live":
            raise NotFound(f"there is no manifest {manifest_id}")
        for pack in self.packs.values():
            if (HolderKind.MANIFEST, manifest_id) in pack.held_by:
                pack.held_by.add(_name(holder))

    async def distrust(self, packs: Iterable[str]) -> None:
        gone = set(packs)
        self.chunks = {key: place for key, place in self.chunks.items() if place.pack_id not in gone}

    async def release(self, holder: Holder) -> None:
        await asyncio.sleep(0)
        for row in (*self.packs.values(), *self.manifests.values()):
            row.held_by.discard(_name(holder))

    async def condemn(self, store: str, limit: int = 1000) -> tuple[Sequence[Doomed], Sequence[Doomed]]:
        await asyncio.sleep(0)
        manifests = _condemn(self.manifests, store, limit)
        gone = {(HolderKind.MANIFEST, doomed.id) for doomed in manifests}
        for row in self.packs.values():
            row.held_by -= gone
        packs = _condemn(self.packs, store, limit)
        await self.distrust(doomed.id for doomed in packs)
        return manifests, packs

    async def forget(self, manifests: Iterable[str], packs: Iterable[str]) -> None:
        await asyncio.sleep(0)
        for rows, ids in ((self.manifests, manifests), (self.packs, packs)):
            for row_id in ids:
                if row_id in rows and rows[row_id].state == "condemned":
                    del rows[row_id]

    async def known(self, manifests: Sequence[str], packs: Sequence[str]) -> tuple[set[str], set[str]]:
        await asyncio.sleep(0)
        return set(manifests) & self.manifests.keys(), set(packs) & self.packs.keys()

    async def hold_manifest(self, holder: Holder, manifest_id: str) -> str:
        await asyncio.sleep(0)
        row = self.manifests.get(manifest_id)
        if row is None or row.state != "live":
            raise NotFound(f"there is no manifest {manifest_id}")
        row.held_by.add(_name(holder))
        return row.store

    async def _enter(self, holder: Holder) -> None:
        await asyncio.sleep(0)
        if holder.kind in FENCED and self.fences.get(_name(holder), holder.fence) != holder.fence:
            raise Conflict(f"{holder.kind} {holder.id} was taken over", hint="let the newer run go on")


def _name(holder: Holder) -> HolderName:
    return holder.kind, holder.id


def _condemn(rows: Mapping[str, MemoryRow], store: str, limit: int) -> list[Doomed]:
    """Condemn up to ``limit`` rows that nobody holds; all that are condemned come back."""
    held_by_nobody = [row for row in rows.values() if row.store == store and not row.held_by]
    for row in [row for row in held_by_nobody if row.state != "condemned"][:limit]:
        row.state = "condemned"
    return [
        Doomed(row_id, store)
        for row_id, row in rows.items()
        if row.store == store and row.state == "condemned"
    ]
