"""Records of usage: added, raised, listed in pages, forgotten; and what lies in the stores."""

from __future__ import annotations

from datetime import datetime, timedelta

from imsd.chunks.index import Holder, HolderKind
from imsd.metadata import images, uploads, usage
from imsd.metadata.database import Database
from imsd.metadata.records import ImageStatus
from imsd.metadata.tables import manifest, manifest_holder, pack, pack_reference
from imsd.metadata.usage import UsageMarker, UsageRecord
from tests.unit.metadata.samples import START, an_image, an_upload

NOON = START.replace(minute=0, second=0, microsecond=0)


def record(quantity: int, project_id: str = "lab", hours: int = 0, resource: str = "x") -> UsageRecord:
    return UsageRecord(
        project_id=project_id, hour=NOON + timedelta(hours=hours), resource=resource, quantity=quantity
    )


async def listed(
    database: Database,
    project_id: str | None = None,
    begin: datetime = NOON,
    limit: int = 100,
    after: UsageMarker | None = None,
) -> list[UsageRecord]:
    async with database.reading() as c:
        return await usage.list_usage(c, project_id, begin, NOON + timedelta(days=9), limit, after)


async def test_what_flows_adds_up_and_what_lies_counts_at_its_most(database: Database) -> None:
    async with database.transaction() as c:
        await usage.add_usage(c, record(3))
        await usage.add_usage(c, record(1 << 60))
        await usage.raise_usage(c, [record(5, "web"), record(7, "db")])
        await usage.raise_usage(c, [record(4, "web"), record(9, "db")])
    assert await listed(database) == [record(9, "db"), record(3 + (1 << 60)), record(5, "web")]


async def test_records_of_many_projects_are_written_at_once(database: Database) -> None:
    many = [record(n + 1, f"p{n:04}") for n in range(450)]
    async with database.transaction() as c:
        await usage.raise_usage(c, many)
        await usage.raise_usage(c, [])
    assert await listed(database, limit=1000) == many


async def test_pages_go_on_behind_the_last_record(database: Database) -> None:
    records = [
        record(1, project, hour, resource)
        for hour in range(3)
        for project in ("a", "b")
        for resource in ("x", "y")
    ]
    async with database.transaction() as c:
        await usage.raise_usage(c, records)
    found: list[UsageRecord] = []
    while page := await listed(
        database,
        limit=5,
        after=(found[-1].hour, found[-1].project_id, found[-1].resource) if found else None,
    ):
        found += page
    assert found == records
    assert await listed(database, "b") == [each for each in records if each.project_id == "b"]
    late = await listed(database, begin=NOON + timedelta(hours=2))
    assert late == records[-4:]


async def test_old_records_are_forgotten(database: Database) -> None:
    async with database.transaction() as c:
        await usage.raise_usage(c, [record(1), record(2, hours=1)])
        assert await usage.forget_usage(c, NOON + timedelta(hours=1)) == 1
    assert await listed(database) == [record(2, hours=1)]
    async with database.reading() as c:
        assert await usage.has_usage(c, NOON + timedelta(hours=1), "x")
        assert not await usage.has_usage(c, NOON, "x")
        assert not await usage.has_usage(c, NOON + timedelta(hours=1), "y")


async def test_images_and_uploads_count_for_their_projects(database: Database) -> None:
    async with database.transaction() as c:
        for status in ImageStatus:
            await images.insert_image(c, an_image(status=status, stored_size=10))
        await images.insert_image(c, an_image(project_id="web", stored_size=7))
        for size in (5, 6):
            await uploads.insert_upload(c, an_upload(staged_bytes=size))
        await uploads.insert_upload(c, an_upload(project_id="web"))
        assert await usage.images_now(c) == {"lab": (4, 40), "web": (1, 7)}
        assert await usage.staged_now(c) == {"lab": 11}


async def test_a_pack_counts_once_for_a_project_whatever_images_it_is_in(database: Database) -> None:
    first, second, other, gone = (
        an_image(),
        an_image(),
        an_image(project_id="web"),
        an_image(status=ImageStatus.PENDING_DELETE),
    )
    packs = {"p1": 100, "p2": 20, "p3": 3}
    held = {"m1": ("p1", "p2"), "m2": ("p1",), "m3": ("p1", "p3"), "m4": ("p3",)}
    async with database.transaction() as c:
        for name, size in packs.items():
            row = {"id": name, "store": "main", "state": "live", "size_bytes": size, "created_at": NOON}
            await c.execute(pack.insert().values(row))
        for image, (name, its_packs) in zip((first, second, other, gone), held.items(), strict=True):
            await images.insert_image(c, image)
            row = {"id": name, "store": "main", "state": "live", "created_at": NOON}
            await c.execute(manifest.insert().values(row))
            for holder in (Holder(HolderKind.IMAGE, image.id), Holder(HolderKind.READER, first.id)):
                row = {"manifest_id": name, "holder_kind": holder.kind, "holder_id": holder.id}
                await c.execute(manifest_holder.insert().values(row))
            for each in its_packs:
                row = {"pack_id": each, "holder_kind": "manifest", "holder_id": name}
                await c.execute(pack_reference.insert().values(row))
        assert await usage.packs_now(c) == {"lab": 120, "web": 103}
