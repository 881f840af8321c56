"""Every filter and every order of a list of images is answered from an index, as SQLite itself says.

A new filter gets a line in `ASKED`; `test_every_filter_is_asked_for` says which one is missing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import CursorResult, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.metadata import image_lists
from imsd.metadata.database import open_database
from imsd.metadata.engine import reading_engine
from imsd.metadata.image_query import (
    ANY_OF,
    EXACTLY,
    SORT_COLUMNS,
    ImageQuery,
    Scope,
    TimeRange,
)
from imsd.metadata.records import ImageStatus, MemberStatus
from imsd.metadata.rows import Marker
from imsd.metadata.tables import image
from tests.unit.metadata.samples import at, new_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What lists ask of each column that may be asked for by value; an empty text where it says nothing here.
# It names tests, so it is the same in every process.
IMAGE_ID = "5e7508f0-67fb-4885-8fa1-081d83b964ce"
VALUES: dict[str, Any] = {"id": IMAGE_ID, "os_bits": 64, "min_disk_gb": 40, "min_ram_mb": 1024}

ASKED: list[dict[str, Any]] = [
    {},
    *({"statuses": (status,)} for status in ImageStatus),
    {"statuses": (ImageStatus.ACTIVE, ImageStatus.QUEUED)},
    {"name_pattern": "debian"},
    {"name_pattern": "*ian*"},
    {"search": "ebi"},
    {"disk_formats": ("iso",)},
    {"disk_formats": ("iso", "raw")},
    {"tags": {"os": "debian"}},
    {"tags": {"os": "", "tier": "web"}},
    *({"any_of": ((name, (VALUES.get(name, ""),)),)} for name in ANY_OF),
    *({"any_of": ((name, (VALUES.get(name, ""), VALUES.get(name, "x"))),)} for name in ANY_OF),
    *({"exactly": ((name, VALUES.get(name, "")),)} for name in EXACTLY),
    {"is_deprecated": True},
    {"is_deprecated": False},
    {"is_encrypted": True},
    {"is_encrypted": False},
    {"support": (("kvm", "true"),)},
    {"times": (TimeRange("created_at", at(0), at(1)),)},
    {"times": (TimeRange("created_at", at(0), at(1), is_outside=True),)},
    {"disk_formats": ("qcow2",), "statuses": (ImageStatus.ACTIVE,), "tags": {"os": "debian"}},
]

# What a range of an index answers, in its own order: only what is in the range is sorted.
RANGES: list[dict[str, Any]] = [
    {"name_pattern": "deb*"},
    {"times": (TimeRange("updated_at", at(0), at(1)),)},
]

# Whose images; of several projects there may be more than of one.
SCOPES: list[dict[str, Any]] = [
    {"scope": Scope.OWN},
    {"scope": Scope.PUBLIC},
    {"scope": Scope.SHARED},
    {"scope": Scope.SHARED, "member_statuses": (MemberStatus.PENDING, MemberStatus.REJECTED)},
    {"scope": Scope.ALL},
]

ORDERS = [
    {"order_by": order, "descending": descending} for order in SORT_COLUMNS for descending in (True, False)
]

# Whatever these say, the filters are the same: what they mean is tested by the orders and scopes.
NO_FILTERS = {"project_id", "scope", "member_statuses", "order_by", "descending", "server_type"}

MARKERS: dict[str, str | int] = {
    "name": "debian",
    "status": "active",
    "disk_format": "raw",
    "virtual_size": 1,
    "min_disk_gb": 1,
}


def named(value: object) -> str:
    return re.sub(r"[^\w=,.*]+", " ", str(value)).strip()[:70] if isinstance(value, dict) else str(value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncConnection]:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('plans')}/imsd.db"
    async with open_database(url):
        engine = reading_engine(make_url(url))
        try:
            async with engine.connect() as connection:
                yield connection
        finally:
            await engine.dispose()


async def plan_of(c: AsyncConnection, *, is_first: bool = True, **conditions: Any) -> list[str]:
    """The steps in which SQLite answers a page."""
    return await steps(c, *await statement_of(c, is_first=is_first, **conditions))


async def statement_of(c: AsyncConnection, *, is_first: bool = True, **conditions: Any) -> tuple[str, Any]:
    """What SQLite is asked for a page."""
    query = ImageQuery(project_id="lab", **conditions)
    after: Marker | None = None if is_first else (MARKERS.get(query.order_by, at(0)), new_id())
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        sent.append((statement, parameters))

    engine = c.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        await image_lists.list_images(c, query, 10, after)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return next(each for each in sent if each[0].startswith("SELECT"))


async def steps(c: AsyncConnection, statement: str, parameters: Any = ()) -> list[str]:
    explained: CursorResult[Any] = await c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [str(row._mapping["detail"]) for row in explained]


def scanned(plan: list[str]) -> list[str]:
    """The steps that read a whole table of images, tags, members or marks, or a whole index of one."""
    return [step for step in plan if re.match(r"SCAN image(_tag|_member|_support)?\b", step)]


def sorted_steps(plan: list[str]) -> list[str]:
    return [step for step in plan if "TEMP B-TREE" in step]


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "next"])
@pytest.mark.parametrize("asked", [*ASKED, *RANGES, *ORDERS], ids=named)
async def test_no_filter_and_no_order_reads_a_whole_table(
    reader: AsyncConnection, asked: dict[str, Any], is_first: bool
) -> None:
    for scope in SCOPES:
        plan = await plan_of(reader, is_first=is_first, **scope, **asked)
        assert scanned(plan) == [], f"{scope}: {plan}"
        assert any(re.match(r"SEARCH image\b.* USING ", step) for step in plan), plan


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "next"])
@pytest.mark.parametrize("order", ORDERS, ids=named)
async def test_a_page_in_any_order_is_read_in_this_order(
    reader: AsyncConnection, order: dict[str, Any], is_first: bool
) -> None:
    """A project with a million images is not sorted for ten of them."""
    assert sorted_steps(await plan_of(reader, is_first=is_first, **order)) == []


@pytest.mark.parametrize("asked", ASKED, ids=named)
async def test_a_page_of_what_a_filter_finds_is_read_in_the_default_order(
    reader: AsyncConnection, asked: dict[str, Any]
) -> None:
    assert sorted_steps(await plan_of(reader, **asked)) == []


@pytest.mark.parametrize("asked", ASKED, ids=named)
async def test_what_does_not_fit_is_passed_over_without_a_look_at_its_row(
    reader: AsyncConnection, asked: dict[str, Any]
) -> None:
    """A row is a hundred times as long as its entry in an index; only its status may be looked at there.

    Several systems are the exception: their names are too long for an index of all filters. So are several
    stores, which few have, and whether an image is encrypted.
    """
    statement, parameters = await statement_of(reader, **asked)
    plan = await steps(reader, statement, parameters)
    [index] = [found[1] for step in plan if (found := re.match(r"SEARCH image USING .*INDEX (\w+)", step))]
    described: CursorResult[Any] = await reader.exec_driver_sql(f"PRAGMA index_info({index})")
    found = re.search(r"FROM image\s+WHERE (.*?) ORDER BY", statement, re.DOTALL)
    assert found, statement
    columns = set(re.findall(r"\bimage\.(\w+)", found[1])) - {"status", "id"}
    is_at_one_row = index == "sqlite_autoindex_image_1"
    assert is_at_one_row or columns - {"os_version", "store", "key_id"} <= {row.name for row in described}, (
        plan
    )


@pytest.mark.parametrize("asked", [{"tags": {"os": "x"}}, {"tags": {"os": ""}}, {"support": (("kvm", "x"),)}])
async def test_tags_and_marks_of_a_project_are_found_at_once(
    reader: AsyncConnection, asked: dict[str, Any]
) -> None:
    """Not image by image, which takes ten times as long where few images bear one."""
    plan = await plan_of(reader, **asked)
    assert [
        step for step in plan if re.search(r"USING COVERING INDEX \w+ \(project_id=\? AND \w+=\?", step)
    ], plan


async def test_every_filter_is_asked_for() -> None:
    asked = {name for each in ASKED for name in each}
    assert {field.name for field in fields(ImageQuery)} - NO_FILTERS == asked
    assert {order["order_by"] for order in ORDERS} == set(SORT_COLUMNS) <= set(image.c.keys())


async def test_a_filter_without_an_index_would_be_found(reader: AsyncConnection) -> None:
    assert len(scanned(await steps(reader, "SELECT id FROM image WHERE description = 'x'"))) == 1
    ordered = "SELECT id FROM image WHERE project_id = 'lab' ORDER BY description"
    assert len(sorted_steps(await steps(reader, ordered))) == 1
