"""Finding images by name, prefix or family, lists by flavour, and images that wait for their bytes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from imsd.contract import ImsError, InvalidRequest, LimitExceeded, NotFound
from imsd.core import images as core_images
from imsd.core import quotas
from imsd.core.images import FamilyQuery, Images
from imsd.core.new_image import NewImage
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.image_query import ImageQuery, Scope
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, MemberStatus, Visibility
from imsd.metadata.tables import image_member
from tests.unit.core.core_world import STORE
from tests.unit.metadata.samples import START, an_image

ME, OTHER = "lab", "other"
SHARED: dict[str, Any] = {"project_id": OTHER, "visibility": Visibility.SHARED}
PUBLIC: dict[str, Any] = {"project_id": OTHER, "visibility": Visibility.PUBLIC}


@pytest.fixture
def images(runtime: Runtime) -> Images:
    return Images(runtime)


async def put(database: Database, member: MemberStatus | None = None, **values: Any) -> ImageRecord:
    record = an_image(origin="secret", **values)
    async with database.transaction() as c:
        await image_rows.insert_image(c, record)
        if member:
            row = {"image_id": record.id, "project_id": ME, "status": member}
            await c.execute(insert(image_member).values(row | {"created_at": START, "updated_at": START}))
    return record


async def test_a_name_stands_for_the_own_image_else_for_one_that_may_be_used(
    images: Images, database: Database
) -> None:
    public = await put(database, name="debian", **PUBLIC)
    found = await images.resolve(ME, "debian")
    assert (found.id, found.origin, found.member_status) == (public.id, "", None)
    own = await put(database, name="debian")
    assert (await images.resolve(ME, "debian")) == own
    shared = await put(database, MemberStatus.ACCEPTED, name="web", **SHARED)
    for text in ("web", shared.id, shared.id[:8]):
        found = await images.resolve(ME, text)
        assert (found.id, found.member_status, found.origin) == (shared.id, MemberStatus.ACCEPTED, "")


@pytest.mark.parametrize("status", [MemberStatus.PENDING, MemberStatus.REJECTED])
async def test_what_was_not_accepted_is_found_by_its_whole_id_only(
    images: Images, database: Database, status: MemberStatus
) -> None:
    shared = await put(database, status, name="web", **SHARED)
    assert (await images.resolve(ME, shared.id)).member_status is status
    for text in ("web", shared.id[:8]):
        with pytest.raises(NotFound):
            await images.resolve(ME, text)


async def test_two_foreign_images_of_one_name_are_ambiguous(images: Images, database: Database) -> None:
    for _ in range(2):
        await put(database, name="debian", **PUBLIC)
    with pytest.raises(InvalidRequest) as refused:
        await images.resolve(ME, "debian")
    assert refused.value.reason == "AMBIGUOUS_NAME"


@pytest.mark.parametrize("text", ["", "x" * 129, "a\0", "%", "____"])
async def test_what_stands_for_nothing_finds_nothing(images: Images, database: Database, text: str) -> None:
    await put(database)
    with pytest.raises(ImsError) as refused:
        await images.resolve(ME, text)
    assert refused.value.reason in ("INVALID_REQUEST", "NOT_FOUND")


async def test_a_family_is_resolved_as_its_asker_sees_it(images: Images, database: Database) -> None:
    shared = await put(database, MemberStatus.ACCEPTED, family="web", architecture="arm", **SHARED)
    found = await images.resolve_family(FamilyQuery(ME, "web", "arm"))
    assert (found.id, found.member_status, found.origin) == (shared.id, MemberStatus.ACCEPTED, "")
    for query, reason in (
        (FamilyQuery(ME, "web", "x86"), "NOT_FOUND"),
        (FamilyQuery("stranger", "web"), "NOT_FOUND"),
        (FamilyQuery(ME, ""), "INVALID_REQUEST"),
        (FamilyQuery(ME, "Web"), "INVALID_REQUEST"),
        (FamilyQuery("a b", "web"), "INVALID_REQUEST"),
    ):
        with pytest.raises(ImsError) as refused:
            await images.resolve_family(query)
        assert refused.value.reason == reason


async def test_a_flavour_chooses_images_whose_system_its_servers_take(
    images: Images, database: Database
) -> None:
    for name, os_version, architecture in (
        ("listed", "CentOS 7.6 64bit", "x86"),
        ("unknown processor", "CentOS 7.6 64bit", ""),
        ("arm", "CentOS 7.6 64bit", "arm"),
        ("unlisted", "CentOS 5.0 64bit", "x86"),
        ("none", "", ""),
    ):
        await put(database, name=name, os_version=os_version, architecture=architecture)
    for server_type, expected in (
        ("S6", {"listed", "unknown processor"}),
        ("kc1", {"arm", "unknown processor"}),
    ):
        page, _ = await images.list(ImageQuery(project_id=ME, server_type=server_type), 10, "")
        assert {image.name for image in page} == expected
    with pytest.raises(InvalidRequest):
        await images.list(ImageQuery(project_id=ME, server_type="Z9"), 10, "")


async def test_too_many_systems_are_refused_and_not_cut(
    images: Images, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minor in range(3):
        await put(database, os_version=f"CentOS 7.{minor} 64bit", architecture="x86")
    monkeypatch.setattr(core_images, "MAX_TAKEN_SYSTEMS", 2)
    with pytest.raises(LimitExceeded) as refused:
        await images.list(ImageQuery(project_id=ME, server_type="S6"), 10, "")
    assert refused.value.field == "filter.server_type"
    monkeypatch.setattr(core_images, "MAX_TAKEN_SYSTEMS", 3)
    monkeypatch.setattr(core_images, "MAX_SYSTEMS", 2)
    with pytest.raises(LimitExceeded):
        await images.list(ImageQuery(project_id=ME, server_type="S6"), 10, "")


async def test_a_token_goes_on_in_a_list_of_all_and_in_no_other(images: Images, database: Database) -> None:
    everything = [await put(database, **(PUBLIC if number % 2 else {})) for number in range(5)]
    query = ImageQuery(project_id=ME, scope=Scope.ALL, order_by="id", descending=False)
    seen: list[ImageRecord] = []
    token = ""
    while True:
        page, token = await images.list(query, 2, token)
        seen += page
        if not token:
            break
    assert [image.id for image in seen] == sorted(image.id for image in everything)
    assert all(image.origin == "" for image in seen if image.project_id == OTHER)
    _, token = await images.list(query, 2, "")
    for other in (ImageQuery(project_id=ME, order_by="id", descending=False), ImageQuery(project_id=OTHER)):
        with pytest.raises(InvalidRequest) as refused:
            await images.list(other, 2, token)
        assert refused.value.reason == "INVALID_PAGE_TOKEN"


async def test_an_image_without_bytes_is_made_once(
    images: Images, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = NewImage(name="later", kind="data_disk", min_disk_gb=40, is_protected=True, family="f")
    key = RequestKey(ME, "once", "f")
    made = await images.prepare(key, new)
    assert (made.status, made.kind, made.is_prepared) == (ImageStatus.QUEUED, ImageKind.DATA_DISK, True)
    assert (made.store, made.job_id, made.is_protected, made.min_disk_gb) == (STORE, "", True, 40)
    assert await images.prepare(key, new) == made
    with pytest.raises(InvalidRequest) as refused:
        await images.prepare(RequestKey(ME, "once", "other"), new)
    assert refused.value.reason == "REQUEST_ID_REUSED"
    async with database.transaction() as c:
        await image_rows.delete_image_row(c, made.id)
    with pytest.raises(NotFound):
        await images.prepare(key, new)
    monkeypatch.setattr(quotas, "default_of", lambda *_: 0)
    with pytest.raises(LimitExceeded):
        await images.prepare(RequestKey(ME, "", "f"), new)


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": "a/b"},
        {"min_disk_gb": -1},
        {"kind": "data_disk", "min_disk_gb": 39},
        {"kind": "iso", "disk_format": "raw"},
        {"tags": {"a b": ""}},
        {"properties": {"A": "x"}},
        {"family": "F"},
        {"os_version": "x" * 256},
        {"description": "<"},
        {"min_ram_mb": 2, "max_ram_mb": 1},
    ],
)
async def test_a_wrong_image_without_bytes_is_refused(images: Images, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await images.prepare(RequestKey(ME, "", "f"), NewImage(**({"name": "later"} | wanted)))
