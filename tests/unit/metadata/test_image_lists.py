"""Lists over own images, public ones and those of others, with every filter, on both databases."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from imsd.metadata import image_families, image_lists, images
from imsd.metadata.database import Database
from imsd.metadata.image_query import ANY_OF, EXACTLY, SORT_COLUMNS, ImageQuery, Scope, TimeRange
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    MemberStatus,
    ServerKind,
    Visibility,
)
from imsd.metadata.tables import image_member
from tests.unit.metadata.samples import START, an_image, at, new_id

ME, OTHER = "lab", "other"
PUBLIC, SHARED = Visibility.PUBLIC, Visibility.SHARED


async def put(database: Database, *records: ImageRecord) -> None:
    async with database.transaction() as c:
        for record in records:
            await images.insert_image(c, record)


async def share(database: Database, record: ImageRecord, status: MemberStatus, project_id: str = ME) -> None:
    row = {"image_id": record.id, "project_id": project_id, "status": status}
    async with database.transaction() as c:
        await c.execute(insert(image_member).values(row | {"created_at": START, "updated_at": START}))


async def page(
    database: Database, limit: int = 100, after: Any = None, systems: Any = None, **asked: Any
) -> list[ImageRecord]:
    query = ImageQuery(project_id=asked.pop("project_id", ME), **asked)
    async with database.reading() as c:
        return await image_lists.list_images(c, query, limit, after, systems)


async def names(database: Database, **asked: Any) -> list[str]:
    return sorted(record.name for record in await page(database, **asked))


async def a_mixture(database: Database) -> dict[str, ImageRecord]:
    """One image of each sort of relation with this project."""
    records = {
        "own": an_image(name="own"),
        "own-public": an_image(name="own-public", visibility=PUBLIC),
        "own-shared": an_image(name="own-shared", visibility=SHARED),
        "public": an_image(name="public", project_id=OTHER, visibility=PUBLIC),
        "private": an_image(name="private", project_id=OTHER),
        "accepted": an_image(name="accepted", project_id=OTHER, visibility=SHARED),
        "pending": an_image(name="pending", project_id=OTHER, visibility=SHARED),
        "rejected": an_image(name="rejected", project_id=OTHER, visibility=SHARED),
        "deleted": an_image(name="deleted", status=ImageStatus.PENDING_DELETE),
    }
    await put(database, *records.values())
    for status in MemberStatus:
        await share(database, records[status.value], status)
    await share(database, records["own-shared"], MemberStatus.ACCEPTED, OTHER)
    return records


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope.OWN, ["own", "own-public", "own-shared"]),
        (Scope.PUBLIC, ["own-public", "public"]),
        (Scope.SHARED, ["accepted"]),
        (Scope.ALL, ["accepted", "own", "own-public", "own-shared", "public"]),
    ],
)
async def test_a_scope_has_what_it_says_and_each_image_once(
    database: Database, scope: Scope, expected: list[str]
) -> None:
    await a_mixture(database)
    assert await names(database, scope=scope) == expected


async def test_shares_are_listed_by_what_was_answered(database: Database) -> None:
    await a_mixture(database)
    for status in MemberStatus:
        found = await page(database, scope=Scope.SHARED, member_statuses=(status,))
        assert [(record.name, record.member_status) for record in found] == [(status.value, status)]
    assert await names(database, scope=Scope.SHARED, member_statuses=tuple(MemberStatus)) == [
        "accepted",
        "pending",
        "rejected",
    ]
    own = await page(database, scope=Scope.ALL, name_pattern="own")
    assert own[0].member_status is None


async def test_a_deleted_image_is_listed_only_when_it_is_asked_for(database: Database) -> None:
    await a_mixture(database)
    assert await names(database, statuses=(ImageStatus.PENDING_DELETE,)) == ["deleted"]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order_by", SORT_COLUMNS)
async def test_pages_of_all_scopes_hold_each_image_once_in_order(
    database: Database, order_by: str, descending: bool
) -> None:
    """Also when many share a sort value and the marker is deleted in between."""
    dice = random.Random(f"{order_by} {descending}")
    everything = []
    for number in range(40):
        project_id, visibility = dice.choice([(ME, Visibility.PRIVATE), (OTHER, PUBLIC), (OTHER, SHARED)])
        record = an_image(
            id=f"{dice.getrandbits(32):08x}-0000-4000-8000-{number:012}",
            project_id=project_id,
            visibility=visibility,
            name=f"n{number % 4}",
            virtual_size=number % 3,
            min_disk_gb=number % 2,
            disk_format=["raw", "qcow2"][number % 2],
            created_at=at(number % 5),
            updated_at=at(-(number % 2)),
            status=[ImageStatus.ACTIVE, ImageStatus.SAVING][number % 2],
        )
        everything.append(record)
    await put(database, *everything)
    for record in everything:
        if record.visibility is SHARED:
            await share(database, record, MemberStatus.ACCEPTED)
    query = ImageQuery(project_id=ME, scope=Scope.ALL, order_by=order_by, descending=descending)
    seen: list[ImageRecord] = []
    after = None
    while True:
        async with database.transaction() as c:
            found = await image_lists.list_images(c, query, 7, after)
            if not found:
                break
            seen += found
            after = (getattr(found[-1], order_by), found[-1].id)
            await images.delete_image_row(c, found[-1].id)
    expected = sorted(everything, key=lambda record: (getattr(record, order_by), record.id))
    assert [record.id for record in seen] == [r.id for r in (expected[::-1] if descending else expected)]


WANTED: Mapping[str, Any] = {
    "visibility": PUBLIC,
    "kind": ImageKind.DATA_DISK,
    "os_type": "windows",
    "os_bits": 32,
    "platform": "Windows",
    "os_version": "Windows 10 32bit",
    "architecture": "arm",
    "boot_mode": "uefi",
    "server_kind": ServerKind.BARE_METAL,
    "is_protected": True,
    "is_published": True,
    "min_disk_gb": 7,
    "min_ram_mb": 512,
    "family": "windows",
    "store": "second",
    "enterprise_project_id": "11111111-2222-4333-8444-555555555555",
}


@pytest.mark.parametrize("column", [*ANY_OF, *(name for name in EXACTLY if name in WANTED)])
async def test_an_attribute_narrows_a_list(database: Database, column: str) -> None:
    await put(database, an_image(name="wanted", **{column: WANTED[column]}), an_image(name="another"))
    if column in ANY_OF:
        asked: dict[str, Any] = {"any_of": ((column, (WANTED[column], WANTED[column])),)}
    else:
        asked = {"exactly": ((column, WANTED[column]),)}
    assert await names(database, **asked) == ["wanted"]


async def test_an_id_and_an_owner_narrow_a_list(database: Database) -> None:
    records = await a_mixture(database)
    assert await names(database, exactly=(("id", records["own"].id),)) == ["own"]
    assert await names(database, exactly=(("id", new_id()),)) == []
    assert await names(database, exactly=(("id", records["private"].id),), scope=Scope.ALL) == []
    assert await names(database, exactly=(("project_id", OTHER),), scope=Scope.ALL) == ["accepted", "public"]
    assert await names(database, exactly=(("project_id", OTHER),)) == []


async def test_a_label_counts_for_the_images_of_whichever_project_asks(database: Database) -> None:
    """Statements are kept, and serve every project."""
    label = "22222222-2222-4333-8444-555555555555"
    for project_id in (ME, OTHER):
        labelled = an_image(name=f"{project_id}-labelled", project_id=project_id, enterprise_project_id=label)
        await put(database, labelled, an_image(name=f"{project_id}-plain", project_id=project_id))
    for project_id in (ME, OTHER, ME):
        for asked, expected in ((label, "labelled"), ("0", "plain")):
            found = await names(database, project_id=project_id, exactly=(("enterprise_project_id", asked),))
            assert found == [f"{project_id}-{expected}"]


async def test_the_enterprise_project_of_another_project_cannot_be_guessed(database: Database) -> None:
    label = new_id()
    await put(
        database,
        an_image(name="own", enterprise_project_id=label),
        an_image(name="own-public", enterprise_project_id=label, visibility=PUBLIC),
        an_image(name="public", enterprise_project_id=label, visibility=PUBLIC, project_id=OTHER),
        shared := an_image(name="shared", enterprise_project_id=label, visibility=SHARED, project_id=OTHER),
    )
    await share(database, shared, MemberStatus.ACCEPTED)
    for scope, of_label, of_none in (
        (Scope.OWN, ["own", "own-public"], []),
        (Scope.PUBLIC, ["own-public"], ["public"]),
        (Scope.SHARED, [], ["shared"]),
        (Scope.ALL, ["own", "own-public"], ["public", "shared"]),
    ):
        assert await names(database, scope=scope, exactly=(("enterprise_project_id", label),)) == of_label
        assert await names(database, scope=scope, exactly=(("enterprise_project_id", "0"),)) == of_none


async def test_deprecated_images_are_listed_or_left_out(database: Database) -> None:
    await put(database, an_image(name="old", deprecated_at=START), an_image(name="new"))
    assert await names(database, is_deprecated=True) == ["old"]
    assert await names(database, is_deprecated=False) == ["new"]
    assert await names(database) == ["new", "old"]


async def test_every_mark_that_is_asked_for_must_be_set_as_it_is_asked(database: Database) -> None:
    await put(
        database,
        an_image(name="both", server_support={"has_kvm": True, "kvm_gpu_type": "V100"}),
        an_image(name="kvm", server_support={"has_kvm": True}),
        an_image(name="other-card", server_support={"has_kvm": True, "kvm_gpu_type": "P100"}),
        an_image(name="none"),
    )
    assert await names(database, support=(("has_kvm", "true"),)) == ["both", "kvm", "other-card"]
    assert await names(database, support=(("has_kvm", "true"), ("kvm_gpu_type", "V100"))) == ["both"]


async def test_marks_that_are_replaced_are_not_found_any_more(database: Database) -> None:
    record = an_image(server_support={"has_kvm": True})
    await put(database, record)
    async with database.transaction() as c:
        await images.update_image(
            c, record.id, {"server_support": {"has_xen": True}}, statuses=[ImageStatus.ACTIVE]
        )
    assert await names(database, support=(("has_kvm", "true"),)) == []
    assert await names(database, support=(("has_xen", "true"),)) == ["debian"]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("WEB", ["Web-1", "my web"]),
        ("debian", ["Web-1", "db"]),
        ("gnu/LINUX", ["Web-1"]),
        ("abcd12", ["db"]),
        ("ABCD12", ["db"]),
        ("ÄPFEL", ["äpfel_100%"]),
        ("_", ["äpfel_100%"]),
        ("%", ["äpfel_100%"]),
        ("0%", ["äpfel_100%"]),
        ("\\", []),
        ("w%b", []),
        ("nothing", []),
    ],
)
async def test_a_search_looks_for_a_part_of_name_id_system_or_platform(
    database: Database, search: str, expected: list[str]
) -> None:
    ids = iter(f"{number}0000000-0000-4000-8000-000000000000" for number in range(9))
    await put(
        database,
        an_image(id=next(ids), name="Web-1", os_version="Debian GNU/Linux 12.0.0 64bit"),
        an_image(id=next(ids), name="my web"),
        an_image(id="abcd1234-0000-4000-8000-000000000000", name="db", platform="Debian"),
        an_image(id=next(ids), name="äpfel_100%"),
    )
    assert await names(database, search=search) == sorted(expected)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (TimeRange("created_at", first=at(10)), ["10", "20"]),
        (TimeRange("created_at", end=at(10)), ["0"]),
        (TimeRange("created_at", at(10), at(11)), ["10"]),
        (TimeRange("created_at", at(10), at(11), is_outside=True), ["0", "20"]),
        (TimeRange("updated_at", first=at(0)), []),
    ],
)
async def test_a_time_narrows_a_list(database: Database, asked: TimeRange, expected: list[str]) -> None:
    await put(
        database,
        *(
            an_image(name=str(second), created_at=at(second), updated_at=START - timedelta(days=1))
            for second in (0, 10, 20)
        ),
    )
    assert await names(database, times=(asked,)) == expected


async def test_systems_are_told_and_looked_for_with_their_architecture(database: Database) -> None:
    await put(
        database,
        an_image(name="a", os_version="CentOS 7.6 64bit", architecture="x86"),
        an_image(name="b", os_version="CentOS 7.6 64bit", architecture="arm"),
        an_image(
            name="c", os_version="CentOS 7.6 64bit", architecture="x86", project_id=OTHER, visibility=PUBLIC
        ),
        an_image(name="d", os_version="CentOS 8.0 64bit", architecture="x86", project_id=OTHER),
    )
    x86 = ("CentOS 7.6 64bit", "x86")
    async with database.reading() as c:
        query = ImageQuery(project_id=ME, scope=Scope.ALL)
        found = await image_lists.systems_of(c, query, 10)
        assert found == [("CentOS 7.6 64bit", "arm"), x86]
        assert len(await image_lists.systems_of(c, query, 1)) == 1
    assert [record.name for record in await page(database, systems=[x86])] == ["a"]
    assert {record.name for record in await page(database, systems=[x86], scope=Scope.ALL)} == {"a", "c"}
    assert await page(database, systems=[], scope=Scope.ALL) == []


async def test_a_list_does_not_say_what_was_found_inside(database: Database) -> None:
    await put(database, an_image(guest={"is_inspected": True}))
    assert [record.guest for record in await page(database)] == [{}]
    assert [record.guest for record in await page(database, scope=Scope.ALL)] == [{}]


@pytest.mark.parametrize(
    ("architecture", "expected"), [("", "newest-own"), ("x86", "older-own"), ("arm", "newest-own")]
)
async def test_of_a_family_the_newest_own_image_counts(
    database: Database, architecture: str, expected: str
) -> None:
    await put(
        database,
        an_image(name="older-own", family="f", architecture="x86", created_at=at(1)),
        an_image(name="newest-own", family="f", architecture="arm", created_at=at(2)),
        an_image(name="saving", family="f", status=ImageStatus.SAVING, created_at=at(9)),
        an_image(name="resting", family="f", status=ImageStatus.DEACTIVATED, created_at=at(9)),
        an_image(name="deprecated", family="f", deprecated_at=at(9), created_at=at(9)),
        an_image(name="public", family="f", project_id=OTHER, visibility=PUBLIC, created_at=at(9)),
        an_image(name="other family", family="g", created_at=at(9)),
    )
    async with database.reading() as c:
        found = await image_families.newest_of(c, ME, "f", architecture)
    assert found is not None
    assert found.name == expected


async def test_without_an_own_image_a_family_is_public_else_accepted(database: Database) -> None:
    shared = {
        status: an_image(name=status.value, family="f", project_id=OTHER, visibility=SHARED, created_at=at(5))
        for status in MemberStatus
    }
    public = an_image(name="public", family="f", project_id=OTHER, visibility=PUBLIC)
    await put(
        database, *shared.values(), an_image(name="foreign", family="f", project_id=OTHER, created_at=at(9))
    )
    for status, record in shared.items():
        await share(database, record, status)

    async def newest() -> str | None:
        async with database.reading() as c:
            found = await image_families.newest_of(c, ME, "f")
        return found.name if found else None

    assert await newest() == "accepted"
    await put(database, public)
    assert await newest() == "public"
    async with database.reading() as c:
        assert await image_families.newest_of(c, ME, "unknown") is None


async def test_a_name_or_id_prefix_finds_images_of_others_that_may_be_used(database: Database) -> None:
    records = await a_mixture(database)
    async with database.reading() as c:
        for name, is_found in (
            ("public", True),
            ("accepted", True),
            ("pending", False),
            ("private", False),
            ("own", False),
        ):
            found = await images.find_foreign_images(c, ME, name)
            assert [record.name for record in found] == [name] * is_found
        by_prefix = await images.find_foreign_images(c, ME, records["public"].id[:8])
        assert [record.name for record in by_prefix] == ["public"]
