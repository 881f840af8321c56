"""Who may use a bucket, which ones images go to and come from, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imsd.contract import (
    BlobStore,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    NotFound,
    Unavailable,
    blob_id,
)
from imsd.core.bucket_sections import BucketSection, configured_buckets
from imsd.core.buckets import BucketPages, Buckets, open_buckets
from imsd.core.driver_list import DriverList
from imsd.core.keys.key_pool import KeyPool
from imsd.core.object_place import ObjectPlace
from imsd.core.opened_stores import DriverState
from imsd.core.page_token import PageTokens
from imsd.core.plugin_registry import load_plugins
from imsd.core.store_pool import open_store_pool
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import buckets_of


def some_buckets() -> Buckets:
    said = {
        "ours": BucketSection("memory", ("web", "db")),
        "far": BucketSection("memory", ("*",), region="elsewhere"),
        "cold": BucketSection("memory", ("*",), storage_class="cold"),
        "shown": BucketSection("memory", ("*",), read_only=True),
        "nobodys": BucketSection("memory"),
    }
    stores: dict[str, BlobStore] = {name: MemoryStore() for name in (*said, "all")}
    return buckets_of("local", said, **stores)


def place(bucket: str) -> ObjectPlace:
    return ObjectPlace.parse("object", f"{bucket}:disk.raw")


def refusal(buckets: Buckets, project: str, bucket: str, *, is_target: bool = False) -> ImsError:
    ask = buckets.target if is_target else buckets.source
    with pytest.raises(ImsError) as refused:
        ask(project, place(bucket), "object")
    assert refused.value.hint
    return refused.value


def test_a_project_sees_the_buckets_it_may_use() -> None:
    buckets = some_buckets()
    assert [each.name for each in buckets.of_project("web")] == ["all", "cold", "far", "ours", "shown"]
    assert [each.name for each in buckets.of_project("default")] == ["all", "cold", "far", "shown"]


def test_a_bucket_of_others_is_as_if_it_were_not_there() -> None:
    buckets = some_buckets()
    other, none = refusal(buckets, "default", "ours"), refusal(buckets, "default", "missing")
    assert isinstance(other, NotFound)
    assert other.reason == none.reason == "BUCKET_NOT_FOUND"
    assert other.message.replace("ours", "missing") == none.message
    assert refusal(buckets, "web", "nobodys").reason == "BUCKET_NOT_FOUND"
    assert buckets.source("web", place("ours"), "object")


@pytest.mark.parametrize("bucket", ["far", "cold"])
def test_only_standard_buckets_of_the_region_take_and_give_images(bucket: str) -> None:
    for is_target in (False, True):
        error = refusal(some_buckets(), "web", bucket, is_target=is_target)
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "BUCKET_UNSUITED"


def test_a_bucket_that_is_only_read_gives_and_takes_nothing() -> None:
    buckets = some_buckets()
    assert buckets.source("web", place("shown"), "object")
    assert refusal(buckets, "web", "shown", is_target=True).reason == "STORE_READ_ONLY"


async def test_objects_come_page_by_page() -> None:
    store = MemoryStore()
    names = [f"images/{number:02}.raw" for number in range(7)] + ["Other.iso"]
    for name in names:
        async with store.begin(blob_id(name)) as ingest:
            await ingest.write([b"x" * len(name)])
            await ingest.commit()
    pages = BucketPages(buckets_of(main=store), PageTokens(b"x" * 32))
    found, token = await pages.page("", "main", "", 0, "")
    assert ([each.id for each in found], token) == (sorted(names), "")
    seen, token = [], ""
    while True:
        found, token = await pages.page("web", "main", "images/", 3, token)
        seen += [each.id for each in found]
        if not token:
            break
    assert seen == names[:-1]
    _, token = await pages.page("web", "main", "images/", 3, "")
    for project, prefix in (("db", "images/"), ("web", "")):
        with pytest.raises(InvalidRequest) as refused:
            await pages.page(project, "main", prefix, 3, token)
        assert refused.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    ("bucket", "prefix", "size", "reason"),
    [
        ("", "", 0, "BUCKET_NAME_EMPTY"),
        ("MAIN", "", 0, "BUCKET_NAME_INVALID"),
        ("other", "", 0, "BUCKET_NOT_FOUND"),
        ("main", "x" * 256, 0, "INVALID_REQUEST"),
        ("main", "a\0", 0, "INVALID_REQUEST"),
        ("main", "", -1, "INVALID_REQUEST"),
        ("main", "", 1001, "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_question_is_refused(bucket: str, prefix: str, size: int, reason: str) -> None:
    pages = BucketPages(buckets_of(main=MemoryStore()), PageTokens(b"x" * 32))
    with pytest.raises(ImsError) as refused:
        await pages.page("", bucket, prefix, size, "")
    assert refused.value.reason == reason


async def test_the_configured_buckets_are_opened_and_listed_beside_the_stores(tmp_path: Path) -> None:
    registry = load_plugins()
    sections: dict[str, dict[str, Any]] = {
        "main": {"driver": "localfs", "path": str(tmp_path / "main"), "projects": ["default"]},
        "lost": {"driver": "localfs", "path": str(tmp_path / "not" / "there"), "projects": "web,db"},
    }
    stores = {"s": {"driver": "localfs", "path": str(tmp_path / "s")}}
    async with (
        open_store_pool(registry, stores, "s") as pool,
        open_buckets(registry, sections, "north") as buckets,
    ):
        assert [each.region for each in buckets.of_project("default")] == ["north"]
        with pytest.raises(Unavailable) as refused:
            buckets.source("db", place("lost"), "object")
        assert refused.value.reason == "DRIVER_NOT_READY"
        assert "bucket 'lost' is failed" in refused.value.message
        statuses = await DriverList(registry, pool, buckets.opened, KeyPool()).statuses()
        listed = [each for each in statuses if each.instance]
        assert [(each.kind, each.instance, each.state) for each in listed] == [
            ("store", "s", DriverState.READY),
            ("bucket", "main", DriverState.READY),
            ("bucket", "lost", DriverState.FAILED),
        ]
        assert [each.is_default for each in listed] == [True, False, False]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"driver": "tape"}, "driver"),
        ({"projects": ["a b"]}, "projects"),
        ({"projects": [""]}, "projects"),
        ({"region": "far away"}, "region"),
        ({"storage_class": "frozen"}, "storage_class"),
        ({"read_only": "perhaps"}, "read_only"),
        ({"reed_only": True}, "reed_only"),
    ],
)
def test_a_wrong_section_names_its_key(tmp_path: Path, section: dict[str, object], key: str) -> None:
    values = {"driver": "localfs", "path": str(tmp_path / "b")} | section
    with pytest.raises(InvalidRequest) as refused:
        configured_buckets(load_plugins(), {"main": values}, "local")
    assert refused.value.reason == "INVALID_CONFIGURATION"
    assert refused.value.field == f"buckets.main.{key}"


async def test_a_required_bucket_stops_the_start(tmp_path: Path) -> None:
    section = {"driver": "localfs", "path": str(tmp_path / "not" / "there"), "required": True}
    with pytest.raises(InvalidRequest, match="bucket 'main'") as refused:
        async with open_buckets(load_plugins(), {"main": section}, "local"):
            pass
    assert refused.value.field == "buckets.main"
