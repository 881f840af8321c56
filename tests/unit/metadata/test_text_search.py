"""Texts of images are found in any case of their letters, the same on every database."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import delete, text, update

from imsd.metadata import image_lists, images, schema, tags
from imsd.metadata.database import Database, open_database
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord, ImageStatus
from imsd.metadata.tables import image
from imsd.metadata.tags import TagQuery
from tests.unit.metadata.samples import an_image


async def put(database: Database, **values: object) -> ImageRecord:
    record = an_image(**values)
    async with database.transaction() as c:
        await images.insert_image(c, record)
    return record


async def found(database: Database, search: str, project_id: str = "lab") -> list[str]:
    query = ImageQuery(project_id=project_id, search=search)
    async with database.reading() as c:
        page = await image_lists.list_images(c, query, 10, None)
    return [record.name for record in page]


async def found_by_name(database: Database, name: str) -> list[str]:
    query = TagQuery(project_id="lab", statuses=[ImageStatus.ACTIVE], name=name)
    async with database.reading() as c:
        return [each.name for each in await tags.find_images(c, query, 10, 0)]


@pytest.mark.parametrize("search", ["STRASSE", "straße", "Straße", "strasse"])
async def test_letters_are_folded_as_unicode_says(database: Database, search: str) -> None:
    await put(database, name="Straße 7")
    assert await found(database, search) == ["Straße 7"]
    assert await found_by_name(database, search) == ["Straße 7"]


@pytest.mark.parametrize("column", ["name", "os_version", "platform"])
async def test_a_search_finds_what_an_image_says_now(database: Database, column: str) -> None:
    record = await put(database, **{column: "before"})
    async with database.transaction() as c:
        await images.update_image(c, record.id, {column: "AFTER"}, statuses=[ImageStatus.ACTIVE])
        await images.update_image(c, record.id, {"description": "more"}, statuses=[ImageStatus.ACTIVE])
    assert await found(database, "before") == []
    assert len(await found(database, "after")) == 1


async def test_a_name_is_not_found_in_what_else_an_image_says(database: Database) -> None:
    await put(database, name="web", os_version="Debian\x1fGNU/Linux 12\x1f", platform="Debian")
    for part in ("debian", "\x1f", "web\x1f", "b\x1fdeb", "gnu"):
        assert await found_by_name(database, part) == [], repr(part)
    assert await found(database, "webdebian") == []
    assert await found_by_name(database, "W") == ["web"]


async def test_the_longest_texts_there_can_be_are_kept_and_found(database: Database) -> None:
    """PostgreSQL refuses an entry of an index above 2,704 bytes, and compresses what it can."""
    letters = random.Random(1)

    def of(count: int) -> str:
        return "".join(chr(letters.randrange(0x20000, 0x2A000)) for _ in range(count))

    name, os_version, platform = of(128), of(255), of(32)
    project = "p" * 64
    await put(database, project_id=project, name=name, os_version=os_version, platform=platform)
    for part in (name, os_version[200:], platform):
        assert await found(database, part, project) == [name]


async def test_images_of_an_older_program_are_found(database_url: str) -> None:
    async with open_database(database_url) as database, database.transaction() as c:
        await c.execute(delete(image))
        for number in range(2001):  # more than one batch
            await images.insert_image(c, an_image(name=f"disk-{number:04}", platform="Übuntu"))
        await c.execute(update(image).values(search_text=""))
        await c.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0009'"))
    async with open_database(database_url) as database:
        for number in (0, 1000, 2000):
            assert await found(database, f"DISK-{number:04}") == [f"disk-{number:04}"]
        assert len(await found(database, "übunTU")) == 10
