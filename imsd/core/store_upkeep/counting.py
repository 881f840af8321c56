"""How much of each pack is needed: counted when that has changed, a few packs at a time, and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from imsd.chunks.pack_chunks import GROUP_PACKS, count_packs
from imsd.core.runtime import Runtime
from imsd.metadata import pack_space

# A round of counting ends after this time; the next one goes on.
ROUND_SECONDS = 60.0

# Counting anew a pack that hundreds of manifests list reads them all: once in a day at most.
MANY_EVERY = timedelta(days=1)

# Packs of an image that are counted while its figures are asked for, and manifests that are read for that.
MAX_PACKS_AT_ONCE = 512
MAX_MANIFESTS_AT_ONCE = 64


class PackCounting:
    """Counts the use of packs; one group of packs of a store at a time, whoever asks."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._turns: dict[str, asyncio.Lock] = {}

    async def count_store(self, store_name: str) -> int:
        """Count what is due in a store, for `ROUND_SECONDS` at most; returns how many packs were counted.

        Raises Unavailable.
        """
        runtime, counted = self._runtime, 0
        ends_at = asyncio.get_running_loop().time() + ROUND_SECONDS
        tried: set[str] = set()
        while asyncio.get_running_loop().time() < ends_at:
            long_ago = runtime.clock() - MANY_EVERY
            async with runtime.database.reading() as c:
                packs = await pack_space.due_packs(c, store_name, long_ago, GROUP_PACKS)
            # What changed while it was counted comes again, and waits for the next round.
            if not set(packs) - tried:
                break
            tried.update(packs)
            counted += await self._count(store_name, packs)
        return counted

    async def count_manifest(self, store_name: str, manifest_id: str) -> None:
        """Count what is due of the packs of a manifest, if that takes no more than a moment."""
        async with self._runtime.database.reading() as c:
            packs = await pack_space.due_packs_of(c, manifest_id)
            if not packs or len(packs) > MAX_PACKS_AT_ONCE:
                return
            listed = await pack_space.listed_by(c, packs)
        if len({each for ids in listed.values() for each in ids}) > MAX_MANIFESTS_AT_ONCE:
            return
        for first in range(0, len(packs), GROUP_PACKS):
            await self._count(store_name, packs[first : first + GROUP_PACKS])

    async def _count(self, store_name: str, packs: Sequence[str]) -> int:
        runtime = self._runtime
        async with self._turns.setdefault(store_name, asyncio.Lock()):
            async with runtime.database.reading() as c:
                listed = await pack_space.listed_by(c, packs)
            uses = await count_packs(runtime.stores.get(store_name), runtime.pool, listed)
            async with runtime.database.transaction() as c:
                await pack_space.save_uses(c, listed, uses, runtime.clock())
        return len(listed)
