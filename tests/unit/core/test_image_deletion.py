from __future__ import annotations

import pytest

from imsd.contract import Conflict, FailedPrecondition
from imsd.core.images import Images
from imsd.core.sweeper import Sweeper
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import open_runtime, pool_of
from tests.unit.metadata.samples import an_image


async def test_an_etag_from_before_or_after_does_not_go_round_the_protection(database: Database) -> None:
    image = an_image()
    async with database.transaction() as c:
        await image_rows.insert_image(c, image)
    async with open_runtime(database, pool_of(main=MemoryStore())) as runtime:
        images = Images(runtime, Sweeper(runtime))
        with pytest.raises(Conflict):  # of a version whose protection nobody has looked at
            await images.delete("lab", image.id, str(image.version + 1))
        async with database.transaction() as c:
            await image_rows.update_image(c, image.id, {"is_protected": True}, statuses=[image.status])
        with pytest.raises(Conflict):
            await images.delete("lab", image.id, str(image.version))
        with pytest.raises(FailedPrecondition):
            await images.delete("lab", image.id, str(image.version + 1))
        await runtime.background.settle()


async def test_deletion_with_a_newer_etag_cannot_hit_an_image_protected_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is read unprotected; then it is protected; the etag is that of the protected version."""
    image = an_image()
    async with database.transaction() as c:
        await image_rows.insert_image(c, image)
    async with open_runtime(database, pool_of(main=MemoryStore())) as runtime:
        images = Images(runtime, Sweeper(runtime))
        stale = await images.get("lab", image.id)
        async with database.transaction() as c:
            await image_rows.update_image(c, image.id, {"is_protected": True}, statuses=[image.status])

        async def read_before(*_: object) -> object:
            return stale

        monkeypatch.setattr(images, "get", read_before)
        with pytest.raises(Conflict):
            await images.delete("lab", image.id, str(image.version + 1))
        await runtime.background.settle()
    async with database.reading() as c:
        assert await image_rows.get_image(c, "lab", image.id) is not None
