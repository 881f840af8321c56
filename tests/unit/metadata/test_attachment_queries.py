"""Attachments in the database: what they hold, and what is found of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import NotFound
from imsd.metadata import attachments, chunk_index
from imsd.metadata.attachments import MovedImage
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database
from imsd.metadata.images import insert_image
from imsd.metadata.records import ImageStatus
from tests.unit.metadata.samples import (
    HOST,
    an_attachment,
    an_image,
    at,
    clock,
    count,
    job_holder,
    new_id,
    pack_id,
)


async def live_manifest(database: Database, manifest_id: str, store: str = "main") -> str:
    """One that only an image holds, whose id is returned."""
    index, holder, image = SqlChunkIndex(database, clock), await job_holder(database), an_image()
    await index.begin_manifest(holder, manifest_id, store)
    async with database.transaction() as c:
        await insert_image(c, replace(image, status=ImageStatus.ACTIVE, store=store, manifest_id=manifest_id))
        await chunk_index.publish_manifest(
            c, manifest_id=manifest_id, writer=holder, image_id=image.id, packs=()
        )
    return image.id


async def let_go(database: Database, image_id: str) -> None:
    async with database.transaction() as c:
        await chunk_index.release_holder(c, Holder(HolderKind.IMAGE, image_id))


async def swept(database: Database) -> list[str]:
    manifests, _ = await SqlChunkIndex(database, clock).condemn("main")
    return [each.id for each in manifests]


async def test_an_attachment_holds_its_manifest_until_it_is_deleted(database: Database) -> None:
    image_id = await live_manifest(database, pack_id(1))
    record = an_attachment(image_id=image_id)
    async with database.transaction() as c:
        await attachments.insert_attachment(c, record)
        await chunk_index.release_readers(c)
        assert await attachments.get_attachment(c, record.id) == record
    await let_go(database, image_id)
    assert await swept(database) == []
    async with database.transaction() as c:
        assert await attachments.delete_attachment(c, record.id)
        assert not await attachments.delete_attachment(c, record.id)
        assert await attachments.get_attachment(c, record.id) is None
    assert await swept(database) == [pack_id(1)]


async def test_what_is_gone_is_not_attached(database: Database) -> None:
    with pytest.raises(NotFound):
        async with database.transaction() as c:
            await attachments.insert_attachment(c, an_attachment())
    assert await count(database, "attachment") == 0


async def test_lists_are_of_a_project_or_a_host(database: Database) -> None:
    image_id = await live_manifest(database, pack_id(1))
    records = [an_attachment(created_at=at(number)) for number in range(3)]
    others = [
        an_attachment(project_id="green", created_at=at(9)),
        an_attachment(host_id=new_id(), image_id=image_id),
    ]
    async with database.transaction() as c:
        for record in (*records, *others):
            await attachments.insert_attachment(c, record)
        await attachments.mark_detaching(c, records[0].id)
    records[0] = replace(records[0], is_detaching=True)
    async with database.reading() as c:
        found = await attachments.list_attachments(c, "blue", "", 2, None)
        assert found == [records[2], records[1]]
        marker = (found[-1].created_at, found[-1].id)
        rest = await attachments.list_attachments(c, "blue", "", 5, marker)
        assert {each.id for each in rest} == {records[0].id, others[1].id}
        assert await attachments.list_attachments(c, "blue", image_id, 5, None) == [others[1]]
        assert await attachments.count_attachments(c, "blue") == 4
        here = await attachments.attachments_of_host(c, HOST, 10)
        assert here == sorted([*records, others[0]], key=lambda each: each.id)
        assert await attachments.attachments_of_host(c, HOST, 10, here[1].id) == here[2:]


async def test_one_whose_image_was_moved_holds_both_until_it_followed(database: Database) -> None:
    image_id = await live_manifest(database, pack_id(1))
    record = an_attachment(image_id=image_id)
    async with database.transaction() as c:
        await attachments.insert_attachment(c, record)
        assert await attachments.moved_images(c, HOST, 10) == []
    moved_id = await live_manifest(database, pack_id(2), "other")
    await let_go(database, image_id)
    other = replace(record, id=new_id(), image_id=moved_id)
    async with database.transaction() as c:
        await attachments.insert_attachment(c, other)
        moved = MovedImage(other, "other", pack_id(2))
        assert await attachments.moved_images(c, HOST, 10) == [moved]
        assert await attachments.moved_images(c, new_id(), 10) == []
        await chunk_index.hold_manifest(c, attachments.holder_of(other.id), pack_id(2))
        await attachments.move_attachment(c, moved)
        assert await attachments.moved_images(c, HOST, 10) == []
        assert await attachments.get_attachment(c, other.id) == replace(
            other, store="other", manifest_id=pack_id(2)
        )
        await attachments.delete_attachment(c, record.id)
    assert await swept(database) == [pack_id(1)]
    await let_go(database, moved_id)
    manifests, _ = await SqlChunkIndex(database, clock).condemn("other")
    assert manifests == []
