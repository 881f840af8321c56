from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sqlalchemy import insert, text

from imsd.metadata import image_lists, images
from imsd.metadata.database import Database
from imsd.metadata.image_query import SORT_COLUMNS, ImageQuery
from imsd.metadata.records import ImageRecord, ImageStatus
from imsd.metadata.rows import to_row
from imsd.metadata.tables import image, image_tag
from tests.unit.metadata.samples import an_image, at, new_id


async def put(database: Database, *records: ImageRecord) -> None:
    async with database.transaction() as c:
        for record in records:
            await images.insert_image(c, record)


async def listed(database: Database, limit: int = 100, after: Any = None, **conditions: Any) -> list[str]:
    query = ImageQuery(project_id=conditions.pop("project_id", "lab"), **conditions)
    async with database.reading() as c:
        return [record.name for record in await image_lists.list_images(c, query, limit, after)]


async def found(database: Database, text: str, limit: int = 3) -> list[str]:
    async with database.reading() as c:
        return [record.id for record in await images.find_images(c, "lab", text, limit)]


async def test_an_image_comes_back_as_it_went_in(database: Database) -> None:
    record = an_image(
        name="naïve ünïcode",
        tags={"os": "debian", "empty": ""},
        properties={"hw_disk_bus": "virtio"},
        findings=({"code": "QCOW2_SNAPSHOTS_IGNORED", "message": "2 snapshots"},),
        virtual_size=(1 << 47) + 1,
        is_protected=True,
        active_at=at(0.000001),
    )
    await put(database, record)
    async with database.reading() as c:
        assert await images.get_image(c, "lab", record.id) == record


async def test_another_project_has_no_such_image(database: Database) -> None:
    record = an_image(tags={"a": "b"})
    await put(database, record)
    async with database.reading() as c:
        assert await images.get_image(c, "other", record.id) is None
        assert await images.find_images(c, "other", record.name) == []
        assert await images.find_images(c, "other", record.id) == []
    assert await listed(database, project_id="other") == []


async def test_an_image_is_found_by_id_prefix_or_name(database: Database) -> None:
    record = an_image(id="abcd1234-0000-4000-8000-000000000000", name="web")
    other = an_image(id="1234abcd-0000-4000-8000-000000000000", name="db")
    await put(database, record, other)
    for text_ in (record.id, "abcd", "abcd1234-0", "web"):
        assert await found(database, text_) == [record.id]
    for text_ in ("abc", "ABCD", "we", "web ", "abce", "%", "____", "", "abcd1234-1"):
        assert await found(database, text_) == []


async def test_a_name_that_is_also_an_id_prefix_is_ambiguous(database: Database) -> None:
    record = an_image(id="beef1234-0000-4000-8000-000000000000", name="web")
    other = an_image(name="beef")
    await put(database, record, other)
    assert set(await found(database, "beef")) == {record.id, other.id}
    assert await found(database, record.id) == [record.id]


async def test_finding_stops_at_the_limit_and_passes_over_what_is_not_listed(database: Database) -> None:
    await put(database, *[an_image() for _ in range(5)], an_image(name="gone", status=ImageStatus.KILLED))
    assert len(await found(database, "debian", 3)) == 3
    assert await found(database, "gone") == []


async def test_a_star_stands_for_any_characters_and_nothing_else_does(database: Database) -> None:
    for name in ("web-1", "web_1", "web%1", "Web-1", "db", "a\\b"):
        await put(database, an_image(name=name))
    assert set(await listed(database, name_pattern="web*")) == {"web-1", "web_1", "web%1"}
    assert await listed(database, name_pattern="web_*") == ["web_1"]
    assert await listed(database, name_pattern="*%*") == ["web%1"]
    assert await listed(database, name_pattern="*\\*") == ["a\\b"]
    assert await listed(database, name_pattern="web-1") == ["web-1"]
    assert await listed(database, name_pattern="web") == []
    assert len(await listed(database, name_pattern="**")) == 6


async def test_without_statuses_the_usable_and_growing_ones_are_listed(database: Database) -> None:
    await put(database, *[an_image(name=status.value, status=status) for status in ImageStatus])
    assert set(await listed(database)) == {"queued", "saving", "active", "deactivated"}
    assert await listed(database, statuses=(ImageStatus.KILLED,)) == ["killed"]
    both = (ImageStatus.ACTIVE, ImageStatus.DELETED)
    assert set(await listed(database, statuses=both)) == {"active", "deleted"}


async def test_formats_and_tags_narrow_the_list(database: Database) -> None:
    await put(
        database,
        an_image(name="a", disk_format="raw", tags={"os": "debian", "tier": ""}),
        an_image(name="b", disk_format="qcow2", tags={"os": "debian"}),
        an_image(name="c", disk_format="iso", tags={"os": "alpine"}),
    )
    assert set(await listed(database, disk_formats=("raw", "iso"))) == {"a", "c"}
    assert set(await listed(database, tags={"os": "debian"})) == {"a", "b"}
    assert set(await listed(database, tags={"os": ""})) == {"a", "b", "c"}
    assert await listed(database, tags={"os": "debian", "tier": ""}) == ["a"]
    assert await listed(database, tags={"os": "debian"}, disk_formats=("iso",)) == []


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order_by", SORT_COLUMNS)
async def test_pages_of_every_order_hold_each_image_once(
    database: Database, order_by: str, descending: bool
) -> None:
    """Also when many share a sort value and the marker is deleted in between."""
    everything = [
        an_image(
            name=f"n{number % 4}",
            virtual_size=number % 3,
            created_at=at(number % 5),
            updated_at=at(-(number % 2)),
            status=[ImageStatus.ACTIVE, ImageStatus.SAVING][number % 2],
        )
        for number in range(23)
    ]
    await put(database, *everything)
    query = ImageQuery(project_id="lab", order_by=order_by, descending=descending)
    seen: list[ImageRecord] = []
    after = None
    while True:
        async with database.transaction() as c:
            page = await image_lists.list_images(c, query, 5, after)
            if not page:
                break
            seen += page
            after = (getattr(page[-1], order_by), page[-1].id)
            await images.delete_image_row(c, page[-1].id)
    expected = sorted(everything, key=lambda record: (getattr(record, order_by), record.id))
    assert [record.id for record in seen] == [r.id for r in (expected[::-1] if descending else expected)]


async def test_an_unknown_order_is_a_defect(database: Database) -> None:
    with pytest.raises(ValueError, match="not sorted by description"):
        await listed(database, order_by="description")


async def test_a_change_gives_the_new_image_and_a_new_version(database: Database) -> None:
    record = an_image(tags={"old": "1"})
    await put(database, record)
    values = {"name": "new", "tags": {"a": "b", "c": ""}, "properties": {"x": "y"}, "updated_at": at(1)}
    async with database.transaction() as c:
        changed = await images.update_image(c, record.id, values, statuses=[ImageStatus.ACTIVE])
    assert changed == dataclasses.replace(record, **values, version=2)  # type: ignore[arg-type]
    async with database.reading() as c:
        assert await images.get_image(c, "lab", record.id) == changed


async def test_of_two_changes_of_one_version_the_second_fails(database: Database) -> None:
    record = an_image()
    await put(database, record)

    async def rename(name: str) -> ImageRecord | None:
        async with database.transaction() as c:
            return await images.update_image(
                c, record.id, {"name": name}, expected_version=1, statuses=[ImageStatus.ACTIVE]
            )

    assert await rename("first") is not None
    assert await rename("second") is None
    assert await listed(database) == ["first"]


async def test_a_refused_change_leaves_the_tags_alone(database: Database) -> None:
    record = an_image(status=ImageStatus.QUEUED, tags={"keep": "me"})
    await put(database, record)
    async with database.transaction() as c:
        assert (await images.update_image(c, record.id, {"tags": {}}, statuses=[ImageStatus.ACTIVE])) is None
        assert await images.update_image(c, new_id(), {}, statuses=list(ImageStatus)) is None
        assert await images.get_image(c, "lab", record.id) == record


async def test_a_job_that_runs_again_finds_its_image_saving_and_goes_on(database: Database) -> None:
    record = an_image(status=ImageStatus.QUEUED)
    await put(database, record)
    either = [ImageStatus.QUEUED, ImageStatus.SAVING]
    for _ in range(2):
        async with database.transaction() as c:
            assert await images.update_image(c, record.id, {"status": ImageStatus.SAVING}, statuses=either)


async def test_tags_go_with_their_image(database: Database) -> None:
    record = an_image(tags={"a": "b"})
    await put(database, record)
    async with database.transaction() as c:
        await images.delete_image_row(c, record.id)
        assert (await c.execute(text("SELECT count(*) FROM image_tag"))).scalar() == 0


async def test_tags_of_many_images_are_read_in_batches(database: Database) -> None:
    records = [an_image(name=f"{number:04}") for number in range(1000)]
    tags = [{"image_id": record.id, "key": "n", "value": record.name} for record in records]
    async with database.transaction() as c:
        await c.execute(insert(image), [to_row(record, without=["tags"]) for record in records])
        await c.execute(insert(image_tag), tags)
    async with database.reading() as c:
        page = await image_lists.list_images(c, ImageQuery(project_id="lab", order_by="name"), 1000, None)
    assert [record.tags["n"] for record in page] == [record.name for record in page]
    assert len(page) == 1000
