from __future__ import annotations

import pytest

from imsd.metadata import images, store_usage, uploads
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database
from imsd.metadata.store_usage import ProjectPart, StoredThings
from tests.unit.metadata.samples import (
    an_image,
    an_upload,
    chunks_of,
    clock,
    job_holder,
    new_id,
    pack_id,
)


@pytest.fixture
async def filled(database: Database) -> Database:
    """In main a pack of each state, images, an upload and a manifest; elsewhere a pack."""
    index, job, other = SqlChunkIndex(database, clock), await job_holder(database), await job_holder(database)
    for number, holder, size in ((1, job, 1000), (2, other, 200)):
        await index.begin_pack(holder, pack_id(number), "main")
        await index.commit_pack(holder, "lab", pack_id(number), size, chunks_of(pack_id(number), number))
    await index.release(other)
    await index.condemn("main")
    await index.begin_pack(job, pack_id(3), "main")
    await index.begin_pack(job, pack_id(4), "second")
    await index.commit_pack(job, "lab", pack_id(4), 50, chunks_of(pack_id(4), 4))
    await index.begin_manifest(job, pack_id(100), "main")
    async with database.transaction() as c:
        for project, size in (("lab", 10), ("lab", 20), ("web", 500)):
            await images.insert_image(
                c, an_image(id=new_id(), project_id=project, store="main", stored_size=size)
            )
        await uploads.insert_upload(c, an_upload(store="main", staged_bytes=7))
    return database


async def test_what_lies_in_each_store_is_counted(filled: Database) -> None:
    async with filled.reading() as c:
        things = await store_usage.stored_things(c)
    assert dict(things) == {
        "main": StoredThings(
            image_count=3,
            pack_count=1,
            pack_bytes=1000,
            condemned_pack_count=1,
            condemned_bytes=200,
            writing_pack_count=1,
            manifest_count=0,  # it is still being written
            upload_count=1,
            staged_bytes=7,
        ),
        "second": StoredThings(pack_count=1, pack_bytes=50),
    }
    assert things["main"].stored_bytes == 1207


async def test_the_projects_with_most_come_first(filled: Database) -> None:
    async with filled.reading() as c:
        assert await store_usage.project_parts(c, "main", 10) == (
            [ProjectPart("web", 1, 500), ProjectPart("lab", 2, 30)],
            2,
        )
        assert await store_usage.project_parts(c, "main", 1) == ([ProjectPart("web", 1, 500)], 2)
        assert await store_usage.project_parts(c, "second", 10) == ([], 0)
