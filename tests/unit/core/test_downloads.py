from __future__ import annotations

import asyncio

import pytest

from imsd.chunks.index import Holder, HolderKind
from imsd.core.downloads import open_image_reader
from imsd.core.sweeper import Sweeper
from imsd.metadata.database import Database
from imsd.testing.memory_index import MemoryChunkIndex
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.metadata.samples import an_image

JOB = Holder(HolderKind.JOB, "job")
MANIFEST = "0" * 32


class HangingUp(MemoryChunkIndex):
    """The caller hangs up when the hold is committed already."""

    async def hold_manifest(self, holder: Holder, manifest_id: str) -> str:
        await super().hold_manifest(holder, manifest_id)
        raise asyncio.CancelledError


async def test_a_client_that_hangs_up_while_the_image_is_held_holds_nothing(database: Database) -> None:
    index = HangingUp()
    await index.begin_manifest(JOB, MANIFEST, STORE)
    await index.publish_manifest(JOB, MANIFEST, [])
    async with open_runtime(database, pool_of(main=MemoryStore()), index) as runtime:
        image = an_image(manifest_id=MANIFEST, store=STORE)
        with pytest.raises(asyncio.CancelledError):
            async with open_image_reader(runtime, Sweeper(runtime), image):
                raise AssertionError("it was not opened")
        await runtime.background.settle()
    assert index.manifests[MANIFEST].held_by == {(HolderKind.JOB, "job")}
