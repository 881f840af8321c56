"""What lies beside the manifest of an encrypted image: enough to read it without the database."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.contract import BlobId, ByteRange
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import ImageDeletion
from imsd.core.keys.data_keys import context_of
from imsd.core.keys.descriptors import Descriptors, descriptor_prefix
from imsd.metadata import images as image_rows
from imsd.metadata import keys as key_rows
from imsd.metadata import tables
from imsd.metadata.database import Database
from imsd.metadata.key_tables import data_key
from imsd.metadata.records import ImageRecord, JobState
from imsd.metadata.tables import pack
from tests.unit.core.core_world import STORE
from tests.unit.core.encrypted_world import DISK, data_keys, new_key
from tests.unit.core.import_world import PROJECT, ImportService, ImportWorld
from tests.unit.core.key_world import Clock, CountingKeys
from tests.unit.core.test_repacking import repacked


@pytest.fixture
def key_service() -> CountingKeys:
    return CountingKeys(Clock())


@pytest.fixture
async def service(database: Database, key_service: CountingKeys) -> AsyncIterator[ImportService]:
    async with ImportWorld(database, key_service=key_service).serving() as service:
        yield service


@pytest.fixture
async def image(service: ImportService) -> ImageRecord:
    await new_key(service)
    view = await service.import_file(DISK, disk_format="raw", key="payroll", tags={"team": "web"})
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def descriptors_of(service: ImportService, image: ImageRecord) -> list[BlobId]:
    store = service.runtime.stores.get(image.store)
    return [blob.id async for blob in store.list(descriptor_prefix(image.manifest_id))]


async def content_of(service: ImportService, blob: BlobId) -> dict[str, Any]:
    store = service.runtime.stores.get(STORE)
    size = (await store.stat(blob)).size_bytes
    found: dict[str, Any] = json.loads(bytes((await store.read(blob, [ByteRange(0, size)]))[0]))
    return found


async def test_an_image_is_read_by_its_descriptor_and_the_key_service_alone(
    service: ImportService, image: ImageRecord, key_service: CountingKeys
) -> None:
    await Descriptors(service.runtime, service.sweeper).keep()
    [blob] = await descriptors_of(service, image)
    said = await content_of(service, blob)
    assert said["version"] == 1
    assert (said["image"]["name"], said["image"]["tags"]) == ("disk", {"team": "web"})
    wrapped = base64.b64decode(said["data_key"]["wrapped"])
    image_id = said["image"]["id"]
    data_key = await key_service.unwrap(said["data_key"]["key_id"], wrapped, context_of(image_id))
    store, pool = service.runtime.stores.get(STORE), service.runtime.pool
    cipher = ChunkCipher(data_key, image_id)
    async with open_chunk_reader(store, said["image"]["manifest_id"], pool, cipher=cipher) as reader:
        content = bytearray(reader.size_bytes)
        await pool.run(reader.read_into, 0, memoryview(content))
    assert bytes(content) == DISK


async def test_a_change_makes_a_generation_and_takes_the_older_one_away(
    service: ImportService, image: ImageRecord, key_service: CountingKeys
) -> None:
    descriptors = Descriptors(service.runtime, service.sweeper)
    await descriptors.keep()
    first = await descriptors_of(service, image)
    await descriptors.keep()
    assert await descriptors_of(service, image) == first
    async with service.runtime.database.transaction() as c:
        now = service.runtime.clock()
        await image_rows.update_image(
            c, image.id, {"name": "renamed", "updated_at": now}, statuses=[image.status]
        )
    await descriptors.keep()
    [second] = await descriptors_of(service, image)
    assert second > first[0]
    assert (await content_of(service, second))["image"]["name"] == "renamed"
    [old] = await data_keys(service)
    await key_service.rotate(old.key_id)
    anew = await key_service.rewrap(old.key_id, old.wrapped, context_of(image.id))
    async with service.runtime.database.transaction() as c:
        await key_rows.replace_wrapped(c, old, anew, 2, service.runtime.clock())
    await descriptors.keep()
    [third] = await descriptors_of(service, image)
    said = (await content_of(service, third))["data_key"]
    assert (said["key_version"], base64.b64decode(said["wrapped"])) == (2, anew)


async def test_an_image_that_is_repacked_has_one_beside_its_new_manifest(
    service: ImportService, image: ImageRecord
) -> None:
    descriptors = Descriptors(service.runtime, service.sweeper)
    await descriptors.keep()
    async with service.runtime.database.transaction() as c:
        # As if an upload that was broken off had left more in them.
        await c.execute(update(pack).values(live_bytes=0, is_count_due=False))
        for table in (tables.image, data_key):
            await c.execute(update(table).values(updated_at=service.runtime.clock() - timedelta(hours=1)))
    await repacked(service)
    now = await service.image(image.id)
    assert now.manifest_id != image.manifest_id
    await descriptors.keep()
    [blob] = await descriptors_of(service, now)
    assert (await content_of(service, blob))["image"]["manifest_id"] == now.manifest_id


async def test_a_descriptor_goes_with_its_image(service: ImportService, image: ImageRecord) -> None:
    await Descriptors(service.runtime, service.sweeper).keep()
    await ImageDeletion(service.runtime, service.sweeper).delete(ImageRef(PROJECT, image.id), is_final=True)
    assert await service.left() == {}


async def test_an_image_that_is_not_encrypted_has_none(service: ImportService) -> None:
    view = await service.import_file(DISK, disk_format="raw")
    await Descriptors(service.runtime, service.sweeper).keep()
    assert await descriptors_of(service, await service.image(view.record.image_id)) == []
