"""Jobs that share and copy images, whole, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from imsd.chunks.index import Holder, HolderKind
from imsd.core.downloads import open_image_reader
from imsd.core.image_copies import NewCopy
from imsd.core.requests import RequestKey
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import members as member_rows
from imsd.metadata.database import Database
from imsd.metadata.records import JobState, MemberStatus
from tests.unit.core.import_world import PROJECT, ImportWorld
from tests.unit.core.sharing_world import serving
from tests.unit.metadata.samples import new_id


async def test_the_limit_of_members_holds_for_jobs_at_the_same_time(database: Database) -> None:
    async with serving(database, max_members_per_image=10) as service:
        names = [f"p{number}" for number in range(30)]
        await service.projects(*names)
        image = await service.image()
        results = await asyncio.gather(*(service.add([image], [name]) for name in names))
        assert sorted(map(tuple, results)) == [("QUOTA_EXCEEDED",)] * 20 + [("done",)] * 10
        async with database.reading() as c:
            assert await member_rows.member_counts(c, [image]) == {image: 10}


async def test_shares_are_answered_and_ended(database: Database) -> None:
    async with serving(database) as service:
        await service.projects("web", "shop")
        images = [await service.image() for _ in range(3)]
        assert await service.add(images, ["web", "shop"]) == ["done"] * 6
        assert await service.answer("web", images, MemberStatus.ACCEPTED) == ["done"] * 3
        assert await service.answer("shop", images[:1], MemberStatus.REJECTED) == ["done"]
        assert await service.add(images, ["shop"]) == ["done", "ALREADY_EXISTS", "ALREADY_EXISTS"]
        assert await service.remove(images, ["web", "nobody"]) == ["done", "NOT_FOUND"] * 3


@pytest.mark.parametrize("deleted_first", ["source", "copy"])
async def test_a_copy_holds_the_manifest_by_itself(database: Database, deleted_first: str) -> None:
    async with ImportWorld(database).serving() as service:
        view = await service.import_file(bytes(range(256)) * 4096, disk_format="raw")
        source = await service.image(view.record.image_id)
        new = NewCopy(image_id=source.id, name="copy")
        job_id = await service.copies.start(RequestKey(PROJECT, "", new_id()), new)
        done = await service.end_of(job_id)
        assert done.record.state is JobState.SUCCESS
        copy = await service.image(done.record.image_id)
        gone, left = (source, copy) if deleted_first == "source" else (copy, source)
        async with database.transaction() as c:
            await chunk_index.release_holder(c, Holder(HolderKind.IMAGE, gone.id))
            await image_rows.delete_image_row(c, gone.id)
        await service.left()
        async with open_image_reader(service.runtime, service.sweeper, left) as reader:
            assert reader.digest == source.digest
