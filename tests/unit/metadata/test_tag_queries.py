"""Lists by tags, against a model of a few lines in plain Python; and the keys and values there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from imsd.metadata import images, tags
from imsd.metadata.database import Database, open_database
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord, ImageStatus
from imsd.metadata.tables import image
from imsd.metadata.tags import TagQuery
from tests.unit.metadata.samples import an_image, at

PROJECT = "lab"
STATUSES = (ImageStatus.ACTIVE, ImageStatus.QUEUED)

KEYS = st.sampled_from(["stage", "Stage", "team", "阶段", "a_b", "a-b"])
VALUES = st.sampled_from(["", "live", "Live", "test", "x.y", "%"])
NAMES = st.sampled_from(["web", "WEB 2", "Ümlaut", "ümlaut.b", "100_x", "10%"])

IMAGES = st.lists(
    st.builds(
        an_image,
        project_id=st.sampled_from([PROJECT, PROJECT, "other"]),
        name=NAMES,
        status=st.sampled_from([ImageStatus.ACTIVE, ImageStatus.QUEUED, ImageStatus.PENDING_DELETE]),
        tags=st.dictionaries(KEYS, VALUES, max_size=4),
        created_at=st.integers(0, 3).map(at),
    ),
    max_size=12,
)
CONDITIONS = st.dictionaries(KEYS, st.lists(VALUES, max_size=3, unique=True), max_size=3)
QUERIES = st.builds(
    TagQuery,
    project_id=st.just(PROJECT),
    statuses=st.just(STATUSES),
    is_untagged=st.booleans(),
    has_all=CONDITIONS,
    has_any=CONDITIONS,
    not_all=CONDITIONS,
    not_any=CONDITIONS,
    name=st.none() | st.sampled_from(["", "w", "E", "ÜML", "_", "%", "0_", "\\"]),
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def fits(query: TagQuery, record: ImageRecord) -> bool:
    def bears(key: str, values: Sequence[str]) -> bool:
        return key in record.tags and (not values or record.tags[key] in values)

    def each(wanted: Mapping[str, Sequence[str]]) -> list[bool]:
        return [bears(key, values) for key, values in wanted.items()]

    if record.project_id != query.project_id or record.status not in query.statuses:
        return False
    if query.name is not None and (query.name.lower() not in record.name.lower() or not query.name):
        return False
    if query.is_untagged:
        return not record.tags
    return (
        all(each(query.has_all))
        and (not query.has_any or any(each(query.has_any)))
        and (not query.not_all or not all(each(query.not_all)))
        and not any(each(query.not_any))
    )


def newest_first(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    return sorted(records, key=lambda each: (each.created_at, each.id), reverse=True)


async def filled(database: Database, records: Sequence[ImageRecord]) -> None:
    async with database.transaction() as c:
        await c.execute(delete(image))
        for record in records:
            await images.insert_image(c, record)


async def check(database: Database, records: Sequence[ImageRecord], query: TagQuery) -> None:
    await filled(database, records)
    expected = newest_first([each for each in records if fits(query, each)])
    async with database.reading() as c:
        assert await tags.count_images(c, query) == len(expected)
        found = await tags.find_images(c, query, 1000, 0)
        assert [(each.id, dict(each.tags)) for each in found] == [(each.id, each.tags) for each in expected]
        paged = [each for start in range(0, 14, 2) for each in await tags.find_images(c, query, 2, start)]
        assert paged == found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_list_by_tags_has_just_the_images_that_fit(
    kind: str, request: pytest.FixtureRequest, runner: asyncio.Runner
) -> None:
    url = str(request.getfixturevalue(f"{kind}_url"))
    opening = open_database(url)
    database = runner.run(opening.__aenter__())

    @settings(max_examples=150 if kind == "sqlite" else 60)
    @given(IMAGES, QUERIES)
    def compare(records: Sequence[ImageRecord], query: TagQuery) -> None:
        runner.run(check(database, records, query))

    try:
        compare()
    finally:
        runner.run(opening.__aexit__(None, None, None))


async def listed(database: Database, limit: int, **wanted: Any) -> list[tuple[str, Sequence[str]]]:
    """All keys, page by page."""
    query = ImageQuery(project_id=PROJECT, **wanted)
    found: list[tuple[str, Sequence[str]]] = []
    has_more = True
    while has_more:
        async with database.reading() as c:
            page, has_more = await tags.list_keys(c, query, limit, found[-1][0] if found else "")
        assert len(page) <= limit
        found += page
    return found


async def test_keys_are_listed_with_their_values_page_by_page(database: Database) -> None:
    records = [
        an_image(tags={"stage": "live", "team": "a"}),
        an_image(tags={"stage": "test", "team": "a"}, disk_format="iso"),
        an_image(tags={"stage": "live", "zone": ""}),
        an_image(tags={"secret": "x"}, project_id="other"),
        an_image(tags={"gone": "x"}, status=ImageStatus.PENDING_DELETE),
    ]
    await filled(database, records)
    everything = [("stage", ["live", "test"]), ("team", ["a"]), ("zone", [""])]
    for limit in (1, 2, 3, 1000):
        assert await listed(database, limit) == everything
    assert await listed(database, 10, disk_formats=("iso",)) == [("stage", ["test"]), ("team", ["a"])]
    assert await listed(database, 10, name_pattern="nothing") == []


async def test_a_page_of_keys_is_bounded_however_many_values_there_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "MAX_LISTED_VALUES", 3)
    monkeypatch.setattr(tags, "MAX_LISTED_ROWS", 4)
    await filled(database, [an_image(tags={"a": f"v{n}", "b": "w", "c": "w"}) for n in range(6)])
    assert await listed(database, 10) == [("a", ["v0", "v1", "v2"]), ("b", ["w"]), ("c", ["w"])]
