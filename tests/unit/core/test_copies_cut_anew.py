"""Copies of images that came by fast import: cut by content, and looked into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from sqlalchemy import func, select

from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.records import (
    ImageRecord,
    ImageStatus,
    MemberStatus,
)
from imsd.metadata.tables import chunk
from tests.unit.core.coarse_disks import RECORD_BYTES, fast_imported
from tests.unit.core.copy_world import (
    MARKED,
    OTHER,
    a_disk,
    changed,
    content_of,
    copied,
    delete,
    imported,
    record_of,
    share,
    started,
    verified,
)
from tests.unit.core.core_world import STORE
from tests.unit.core.import_world import PROJECT, ImportService, ImportWorld, failed


@pytest.fixture
async def service(database: Database) -> AsyncIterator[ImportService]:
    async with ImportWorld(database).serving() as service:
        yield service


async def test_a_fast_imported_image_is_cut_anew_and_shares_chunks(service: ImportService) -> None:
    disk = a_disk(5, 6)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    fine = await imported(service, disk)
    assert fine.new_size == fine.stored_size > 0  # it shares nothing with records
    copy = await record_of(service, await copied(service, coarse.id))
    assert not copy.is_fast_imported
    assert (copy.digest, copy.new_size) == (coarse.digest, 0)
    assert copy.manifest_id not in (coarse.manifest_id, fine.manifest_id)
    assert service.inspector.asked == 2  # as at the import
    for gone in (coarse, fine):
        await delete(service, gone)
    await verified(service, copy)
    assert await content_of(service, copy) == disk
    await delete(service, copy)
    left = await service.left()
    assert left == {}


async def test_a_fast_imported_image_of_another_project_is_cut_into_the_domain_of_the_copy(
    service: ImportService,
) -> None:
    disk = a_disk(6, 4)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    await share(service, coarse.id, MemberStatus.ACCEPTED)
    copy = await record_of(service, await copied(service, coarse.id, OTHER))
    assert copy.new_size == copy.stored_size
    again = await record_of(service, await copied(service, coarse.id, OTHER))
    assert again.new_size == 0
    async with service.runtime.database.reading() as c:
        rows = await c.execute(select(chunk.c.domain, func.min(chunk.c.length)).group_by(chunk.c.domain))
        shortest = {row[0]: row[1] for row in rows}
    assert shortest[OTHER] < shortest[PROJECT] == RECORD_BYTES


async def test_a_copy_that_runs_keeps_its_bytes_when_it_is_withdrawn(database: Database) -> None:
    async with ImportWorld(database).serving() as service:
        disk = a_disk(11, 4)
        coarse = await fast_imported(service.runtime, PROJECT, disk)
        await share(service, coarse.id, MemberStatus.ACCEPTED)
        job_id, reached = await held_in_copy(service, coarse)
        await share(service, coarse.id, None)
        await delete(service, coarse)
        reached.set()
        copy = await record_of(service, await service.end_of(job_id, OTHER))
        assert await content_of(service, copy) == disk


async def test_a_source_that_is_published_while_it_is_copied_marks_the_copy(database: Database) -> None:
    async with ImportWorld(database).serving() as service:
        coarse = await fast_imported(service.runtime, PROJECT, a_disk(16, 4))
        await share(service, coarse.id, MemberStatus.ACCEPTED)
        job_id, reached = await held_in_copy(service, coarse)
        await changed(service, coarse.id, **MARKED)
        await share(service, coarse.id, None)
        reached.set()
        copy = await record_of(service, await service.end_of(job_id, OTHER))
        assert (copy.public_platform, copy.is_market_derived) == ("Ubuntu", True)


async def test_what_was_found_of_the_file_is_said_of_the_copy(service: ImportService) -> None:
    coarse = await fast_imported(service.runtime, PROJECT, a_disk(17, 2))
    findings = [{"code": "UNPACKED_FROM", "message": "the file was compressed whole by gzip"}]
    await changed(service, coarse.id, findings=findings, guest={})
    copy = await record_of(service, await copied(service, coarse.id))
    assert list(copy.findings)[:1] == findings
    assert copy.guest  # nobody had looked into it before


async def test_a_copy_has_the_smallest_disk_that_its_source_has_whatever_is_allowed_by_now(
    database: Database,
) -> None:
    """Limits are of what is made: what there is may be copied, cut anew or not."""
    async with ImportWorld(database).serving(max_system_disk_gb=1, min_system_disk_gb=1) as service:
        for source in (
            await fast_imported(service.runtime, PROJECT, a_disk(18, 2)),
            await imported(service, a_disk(18, 2)),
        ):
            await changed(service, source.id, min_disk_gb=40)
            copy = await record_of(service, await copied(service, source.id))
            assert copy.min_disk_gb == 40


async def held_in_copy(service: ImportService, coarse: ImageRecord) -> tuple[str, asyncio.Event]:
    """A copy that has opened what it reads, and reads on when the event is set."""
    may_read, begun = asyncio.Event(), asyncio.Event()
    store = service.runtime.stores.get(STORE)
    read = store.read

    async def slowly(*arguments: Any) -> Any:
        begun.set()
        await may_read.wait()
        return await read(*arguments)

    cast(Any, store).read = slowly
    job_id = await started(service, coarse.id, OTHER)
    await begun.wait()
    return job_id, may_read


async def test_a_copy_goes_on_after_a_crash(database: Database) -> None:
    world, disk = ImportWorld(database), a_disk(13, 4)
    async with world.serving(hold_at=1) as service:
        coarse = await fast_imported(service.runtime, PROJECT, disk)
        job_id = await started(service, coarse.id)
        await service.until(job_id, lambda view: view.record.phase == "guest")
    async with world.serving() as service:
        view = await service.end_of(job_id)
        copy = await record_of(service, view)
        assert view.record.attempt == 2
        await verified(service, copy)
        await delete(service, coarse)
        await delete(service, copy)
        assert await service.left() == {}


async def test_a_disk_that_reads_otherwise_than_it_was_is_not_copied(service: ImportService) -> None:
    disk = a_disk(14, 2)
    coarse = await fast_imported(service.runtime, PROJECT, disk)
    async with service.runtime.database.transaction() as c:
        values = {"digest": "b3t:" + "0" * 64}
        await image_rows.update_image(c, coarse.id, values, statuses=[ImageStatus.ACTIVE])
    before = await service.left()
    assert failed(await copied(service, coarse.id)) == "DATA_LOSS"
    assert await service.left() == before
