"""Members of images, on both databases."""

from __future__ import annotations

import pytest

from imsd.metadata import images, members
from imsd.metadata.database import Database
from imsd.metadata.records import MemberRecord, MemberStatus, Visibility
from tests.unit.metadata.samples import START, an_image, at

PENDING, ACCEPTED, REJECTED = MemberStatus.PENDING, MemberStatus.ACCEPTED, MemberStatus.REJECTED


def a_member(image_id: str, project_id: str = "web", seconds: float = 0, **values: object) -> MemberRecord:
    given = {"status": PENDING, "created_at": at(seconds), "updated_at": at(seconds)} | values
    return MemberRecord(image_id=image_id, project_id=project_id, **given)  # type: ignore[arg-type]


@pytest.fixture
async def image_id(database: Database) -> str:
    record = an_image()
    async with database.transaction() as c:
        await images.insert_image(c, record)
    return record.id


async def test_a_member_is_found_as_it_was_added(database: Database, image_id: str) -> None:
    added = a_member(image_id)
    async with database.transaction() as c:
        assert await members.member_of(c, image_id, "web") is None
        await members.insert_member(c, added)
        assert await members.member_of(c, image_id, "web") == added
        assert await members.member_of(c, image_id, "lab") is None


async def test_a_status_changes_only_from_the_one_expected(database: Database, image_id: str) -> None:
    async with database.transaction() as c:
        await members.insert_member(c, a_member(image_id))
        assert not await members.move_member(c, image_id, "web", [REJECTED], ACCEPTED, at(1))
        assert await members.move_member(c, image_id, "web", [PENDING, REJECTED], ACCEPTED, at(2))
        assert await members.member_of(c, image_id, "web") == a_member(
            image_id, status=ACCEPTED, updated_at=at(2)
        )
        with pytest.raises(ValueError, match="cannot become"):
            await members.move_member(c, image_id, "web", [ACCEPTED], PENDING, at(3))


async def test_members_are_listed_in_the_order_they_were_added(database: Database, image_id: str) -> None:
    added = [a_member(image_id, f"p{n}", seconds=n // 2) for n in range(7)]
    async with database.transaction() as c:
        for each in reversed(added):
            await members.insert_member(c, each)
        first = await members.list_members(c, image_id, (), 3, None)
        marker = (first[-1].created_at, first[-1].project_id)
        assert first + await members.list_members(c, image_id, (), 9, marker) == added
        await members.move_member(c, image_id, "p4", [PENDING], ACCEPTED, at(9))
        accepted = await members.list_members(c, image_id, [ACCEPTED], 9, None)
        assert [each.project_id for each in accepted] == ["p4"]
        own = await members.list_members(c, image_id, (), 9, None, only_project_id="p2")
        assert [each.project_id for each in own] == ["p2"]
        assert await members.count_members(c, image_id) == 7
        assert await members.count_members(c, image_id, [PENDING]) == 6


async def test_an_image_is_shared_as_long_as_it_has_members(database: Database, image_id: str) -> None:
    async def state() -> tuple[Visibility, int]:
        await members.follow_members(c, image_id, at(5))
        found = await images.get_image(c, "lab", image_id)
        assert found is not None
        return found.visibility, found.version

    async with database.transaction() as c:
        assert await state() == (Visibility.PRIVATE, 1)
        await members.insert_member(c, a_member(image_id, "web"))
        assert await state() == (Visibility.SHARED, 2)
        await members.insert_member(c, a_member(image_id, "shop"))
        assert await state() == (Visibility.SHARED, 2)
        assert await members.delete_member(c, image_id, "web")
        assert not await members.delete_member(c, image_id, "web")
        assert await state() == (Visibility.SHARED, 2)
        assert await members.delete_members(c, image_id) == 1
        assert await state() == (Visibility.PRIVATE, 3)


async def test_a_public_image_stays_public(database: Database) -> None:
    record = an_image(visibility=Visibility.PUBLIC)
    async with database.transaction() as c:
        await images.insert_image(c, record)
        await members.follow_members(c, record.id, START)
        assert (await images.get_image(c, "lab", record.id)) == record


async def test_members_go_with_their_image(database: Database, image_id: str) -> None:
    async with database.transaction() as c:
        await members.insert_member(c, a_member(image_id))
        await images.delete_image_row(c, image_id)
        assert await members.member_of(c, image_id, "web") is None
