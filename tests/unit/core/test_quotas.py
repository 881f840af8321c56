"""Quotas: hard however many ask at once, on every database, and free again when nothing came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from imsd.contract import LimitExceeded
from imsd.core import quotas
from imsd.core.quota_rules import IMAGES, RULES
from imsd.core.runtime import Runtime
from imsd.core.service_limits import UNLIMITED
from imsd.metadata import images as image_rows
from imsd.metadata import quotas as quota_rows
from imsd.metadata.database import Database, open_database
from imsd.metadata.records import ImageStatus, Visibility
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, now, open_runtime, pool_of
from tests.unit.metadata.conftest import database as any_database
from tests.unit.metadata.conftest import database_url, postgresql_url, sqlite_url
from tests.unit.metadata.samples import an_image

__all__ = ["any_database", "database_url", "postgresql_url", "sqlite_url"]

PROJECT = "lab"


@pytest.fixture
async def daemons(any_database: Database, database_url: str) -> AsyncIterator[list[Runtime]]:
    """Runtimes of one database: two where more than one daemon may use it."""
    async with AsyncExitStack() as stack:
        databases = [any_database]
        if not any_database.is_embedded:
            databases.append(await stack.enter_async_context(open_database(database_url)))
        yield [
            await stack.enter_async_context(open_runtime(each, pool_of(**{STORE: MemoryStore()})))
            for each in databases
        ]


async def make_image(runtime: Runtime) -> bool:
    """Whether there was room for an image."""
    try:
        async with runtime.database.transaction() as c:
            await quotas.reserve(c, runtime, PROJECT, IMAGES)
            await asyncio.sleep(0)
            await image_rows.insert_image(c, an_image(project_id=PROJECT, status=ImageStatus.QUEUED))
    except LimitExceeded:
        return False
    return True


async def test_table_5_1_of_200_parallel_requests_exactly_50_get_an_image(daemons: list[Runtime]) -> None:
    made = await asyncio.gather(*(make_image(daemons[number % len(daemons)]) for number in range(200)))
    assert made.count(True) == 50
    async with daemons[0].database.reading() as c:
        assert await quota_rows.used(c, PROJECT, IMAGES) == 50


async def test_what_counts_are_images_that_are_not_public_and_not_deleted(runtime: Runtime) -> None:
    async with runtime.database.transaction() as c:
        for status in ImageStatus:
            await image_rows.insert_image(c, an_image(project_id=PROJECT, status=status))
        await image_rows.insert_image(c, an_image(project_id=PROJECT, visibility=Visibility.PUBLIC))
        await image_rows.insert_image(c, an_image(project_id=PROJECT, visibility=Visibility.SHARED))
        await image_rows.insert_image(c, an_image(project_id="other"))
        assert await quota_rows.used(c, PROJECT, IMAGES) == 4 + 1


async def test_a_project_has_the_default_until_it_has_a_quota_of_its_own(runtime: Runtime) -> None:
    async with runtime.database.transaction() as c:
        assert await quotas.quota_of(c, runtime, PROJECT, IMAGES) == 50
        await quota_rows.set_quota(c, PROJECT, IMAGES, 0, now())
        assert await quotas.quota_of(c, runtime, PROJECT, IMAGES) == 0
        with pytest.raises(LimitExceeded, match="1 images, more than its quota of 0") as refused:
            await quotas.reserve(c, runtime, PROJECT, IMAGES)
        assert (refused.value.reason, refused.value.field) == ("QUOTA_EXCEEDED", IMAGES)
        await quotas.reserve(c, runtime, "other", IMAGES)
        await quota_rows.set_quota(c, PROJECT, IMAGES, UNLIMITED, now())
        await quotas.reserve(c, runtime, PROJECT, IMAGES, 1 << 40)
        await quota_rows.set_quota(c, PROJECT, IMAGES, None, now())
        assert await quota_rows.own_quotas(c, PROJECT) == {}
        with pytest.raises(LimitExceeded):
            await quotas.reserve(c, runtime, PROJECT, IMAGES, 51)


async def test_every_resource_can_be_counted(daemons: list[Runtime]) -> None:
    async with daemons[0].database.reading() as c:
        for rule in RULES:
            assert await quota_rows.used(c, PROJECT, rule.resource) == 0
