"""What a project sees of the images of others, and that it changes none of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from imsd.contract import FailedPrecondition, InvalidRequest, NotFound, PermissionDenied
from imsd.core.image_access import owned_image, seen_image, usable_image
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, ImageStatus, MemberStatus, Visibility
from imsd.metadata.tables import image_member
from tests.unit.metadata.samples import START, an_image, new_id


async def put(database: Database, *members: tuple[str, MemberStatus], **values: Any) -> ImageRecord:
    record = an_image(
        project_id="owner",
        origin="https://internal.example/x",
        origin_image_id=new_id(),
        enterprise_project_id=new_id(),
        **values,
    )
    async with database.transaction() as c:
        await image_rows.insert_image(c, record)
        for project_id, status in members:
            row = {"image_id": record.id, "project_id": project_id, "status": status}
            await c.execute(insert(image_member).values(row | {"created_at": START, "updated_at": START}))
    return record


async def seen(database: Database, project_id: str, image_id: str) -> ImageRecord:
    async with database.reading() as c:
        return await seen_image(c, project_id, image_id)


async def test_an_image_of_another_project_is_not_there(database: Database) -> None:
    record = await put(database, ("friend", MemberStatus.ACCEPTED))
    for image_id in (record.id, new_id()):
        with pytest.raises(NotFound) as missing:
            await seen(database, "stranger", image_id)
        assert missing.value.message == f"there is no image {image_id} in project stranger"


@pytest.mark.parametrize("status", list(MemberStatus))
async def test_a_member_sees_it_by_its_id_whatever_it_answered(
    database: Database, status: MemberStatus
) -> None:
    record = await put(database, ("friend", status), visibility=Visibility.SHARED)
    found = await seen(database, "friend", record.id)
    assert found.member_status is status
    assert (found.origin, found.origin_image_id) == ("", "")
    assert (found.job_id, found.enterprise_project_id) == ("", "0")
    assert (await seen(database, "owner", record.id)) == record


async def test_everybody_sees_a_public_image_and_nobody_else_changes_it(database: Database) -> None:
    record = await put(database, visibility=Visibility.PUBLIC)
    assert (await seen(database, "stranger", record.id)).id == record.id
    async with database.reading() as c:
        assert await owned_image(c, "owner", record.id) == record
        with pytest.raises(PermissionDenied) as denied:
            await owned_image(c, "stranger", record.id)
    assert denied.value.reason == "NOT_OWNER"


@pytest.mark.parametrize("status", [MemberStatus.PENDING, MemberStatus.REJECTED])
async def test_a_member_reads_only_what_it_accepted(database: Database, status: MemberStatus) -> None:
    """Contract §9.1, the rows of images that are shared with a project."""
    record = await put(
        database, ("friend", MemberStatus.ACCEPTED), ("other", status), visibility=Visibility.SHARED
    )
    async with database.reading() as c:
        assert (await usable_image(c, "friend", record.id)).id == record.id
        assert (await usable_image(c, "owner", record.id)).id == record.id
        with pytest.raises(FailedPrecondition) as refused:
            await usable_image(c, "other", record.id)
    assert refused.value.reason == "SHARE_NOT_ACCEPTED"


@pytest.mark.parametrize("status", [ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.DEACTIVATED])
async def test_nobody_reads_an_image_that_is_not_active(database: Database, status: ImageStatus) -> None:
    record = await put(
        database, ("friend", MemberStatus.ACCEPTED), visibility=Visibility.SHARED, status=status
    )
    for project_id in ("owner", "friend"):
        async with database.reading() as c:
            with pytest.raises(FailedPrecondition) as refused:
                await usable_image(c, project_id, record.id)
        assert refused.value.reason == "IMAGE_NOT_ACTIVE"


@pytest.mark.parametrize("status", [ImageStatus.PENDING_DELETE, ImageStatus.KILLED, ImageStatus.DELETED])
async def test_what_is_deleted_is_not_there(database: Database, status: ImageStatus) -> None:
    record = await put(database, status=status)
    with pytest.raises(NotFound):
        await seen(database, "owner", record.id)


@pytest.mark.parametrize(
    ("project_id", "image_id"), [("a b", new_id()), ("owner", ""), ("owner", "x"), ("owner", "\0")]
)
async def test_bad_ids_are_refused(database: Database, project_id: str, image_id: str) -> None:
    with pytest.raises(InvalidRequest):
        await seen(database, project_id, image_id)
