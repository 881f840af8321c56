"""Members of images, on both databases."""

from __future__ import annotations

import pytest

from imsd.metadata import images, members
from imsd.metadata.database import Database
from imsd.metadata.members import MemberChange
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


def change(
    image_id: str, project_id: str, old: MemberStatus | None, new: MemberStatus | None
) -> MemberChange:
    return MemberChange(image_id, project_id, old, new)


async def test_changes_add_move_and_remove_members(database: Database, image_id: str) -> None:
    async with database.transaction() as c:
        added = [change(image_id, name, None, PENDING) for name in ("web", "shop", "lab")]
        await members.change_members(c, added, START)
        changes = [
            change(image_id, "web", PENDING, ACCEPTED),
            change(image_id, "shop", PENDING, None),
            change(image_id, "lab", PENDING, PENDING),
        ]
        await members.change_members(c, changes, at(1))
        found = await members.list_members(c, image_id, (), 9, None)
        assert found == [
            a_member(image_id, "lab"),
            a_member(image_id, "web", status=ACCEPTED, updated_at=at(1)),
        ]
        assert await members.statuses_of(c, [image_id, "x"], ["web", "shop"]) == {(image_id, "web"): ACCEPTED}
        assert await members.member_counts(c, [image_id, "x"]) == {image_id: 2}


async def test_a_change_outside_the_table_is_a_defect(database: Database, image_id: str) -> None:
    async with database.transaction() as c:
        await members.change_members(c, [change(image_id, "web", None, PENDING)], START)
        await members.change_members(c, [change(image_id, "web", PENDING, ACCEPTED)], START)
        with pytest.raises(ValueError, match="cannot become"):
            await members.change_members(c, [change(image_id, "web", ACCEPTED, PENDING)], START)


async def test_members_are_listed_in_the_order_they_were_added(database: Database, image_id: str) -> None:
    added = [a_member(image_id, f"p{n}", seconds=n // 2) for n in range(7)]
    async with database.transaction() as c:
        for each in reversed(added):
            await members.insert_member(c, each)
        first = await members.list_members(c, image_id, (), 3, None)
        marker = (first[-1].created_at, first[-1].project_id)
        assert first + await members.list_members(c, image_id, (), 9, marker) == added
        await members.change_members(c, [change(image_id, "p4", PENDING, ACCEPTED)], at(9))
        accepted = await members.list_members(c, image_id, [ACCEPTED], 9, None)
        assert [each.project_id for each in accepted] == ["p4"]
        own = await members.list_members(c, image_id, (), 9, None, only_project_id="p2")
        assert [each.project_id for each in own] == ["p2"]


async def test_an_image_is_shared_as_long_as_it_has_members(database: Database, image_id: str) -> None:
    async def state_after(*changes: MemberChange) -> tuple[Visibility, int]:
        await members.change_members(c, changes, at(5))
        found = await images.get_image(c, "lab", image_id)
        assert found is not None
        return found.visibility, found.version

    async with database.transaction() as c:
        assert await state_after() == (Visibility.PRIVATE, 1)
        assert await state_after(change(image_id, "web", None, PENDING)) == (Visibility.SHARED, 2)
        assert await state_after(change(image_id, "shop", None, PENDING)) == (Visibility.SHARED, 2)
        assert await state_after(change(image_id, "web", PENDING, None)) == (Visibility.SHARED, 2)
        assert await state_after(change(image_id, "shop", PENDING, None)) == (Visibility.PRIVATE, 3)
        assert await state_after(change(image_id, "shop", None, PENDING)) == (Visibility.SHARED, 4)
        await members.end_shares(c, image_id, at(6))
        assert await state_after() == (Visibility.PRIVATE, 5)
        assert await members.member_counts(c, [image_id]) == {}


async def test_a_public_image_stays_public(database: Database) -> None:
    record = an_image(visibility=Visibility.PUBLIC)
    async with database.transaction() as c:
        await images.insert_image(c, record)
        await members.follow_members(c, [record.id], START)
        assert (await images.get_image(c, "lab", record.id)) == record


async def test_members_go_with_their_image(database: Database, image_id: str) -> None:
    async with database.transaction() as c:
        await members.insert_member(c, a_member(image_id))
        await images.delete_image_row(c, image_id)
        assert await members.member_of(c, image_id, "web") is None
