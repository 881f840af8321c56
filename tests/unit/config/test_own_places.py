"""Buckets that hold what is the daemon's own, or lie in a store, stop the start; the others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imsd.config_loading import load_config
from imsd.contract import InvalidRequest
from imsd.core.bucket_sections import configured_buckets
from imsd.core.plugin_registry import load_plugins
from imsd.core.store_sections import configured_stores
from imsd.own_places import closed_places, require_apart


def check(folder: Path, bucket: str | Path, file: Path | None = None, **flags: Any) -> None:
    """The state in ``state``, a store in ``images/store``, and a bucket ``bucket`` below ``folder``."""
    values: dict[str, Any] = {
        "state_dir": folder / "state",
        "stores": {"main": {"driver": "localfs", "path": str(folder / "images" / "store")}},
        "buckets": {"b": {"driver": "localfs", "path": str(folder / bucket), "projects": ["*"]}},
    }
    config = load_config(file, values | flags).config
    registry = load_plugins()
    stores = configured_stores(registry, config.stores, config.default_store)
    require_apart(config, stores, configured_buckets(registry, config.buckets, config.region))


def refusal(folder: Path, bucket: str | Path, **flags: Any) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check(folder, bucket, **flags)
    assert (refused.value.reason, refused.value.field) == ("INVALID_CONFIGURATION", "buckets.b")
    assert "directory of its own" in refused.value.hint
    return refused.value.message


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ("images/store", "holds the store 'main'"),
        ("images", "holds the store 'main'"),
        ("images/store/b", "lies in the store 'main'"),
        ("images/store/packs/0a", "lies in the store 'main'"),
        ("state", "holds the state directory"),
        (".", "holds the state directory"),
        ("/", "holds the state directory"),
        ("x/../images", "holds the store 'main'"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_bucket_where_it_must_not_be_is_refused(
    tmp_path: Path, bucket: str, said: str, *, is_there: bool
) -> None:
    if is_there:
        for folder in ("images/store/packs/0a", "images/store/b", "state", "x"):
            (tmp_path / folder).mkdir(parents=True)
    assert said in refusal(tmp_path, bucket)


@pytest.mark.parametrize("bucket", ["b", "state/bucket", "images/store-b", "images/b", "statement"])
def test_a_bucket_beside_them_is_taken(tmp_path: Path, bucket: str) -> None:
    check(tmp_path, bucket)


def test_a_link_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "images" / "store").mkdir(parents=True)
    (tmp_path / "link").symlink_to("images")
    assert "holds the store" in refusal(tmp_path, "link")
    assert "lies in the store" in refusal(tmp_path, "link/store/b")
    (tmp_path / "b").mkdir()
    (tmp_path / "state").symlink_to("b")
    assert "holds the state directory" in refusal(tmp_path, "b")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"database_url": "sqlite+aiosqlite:///{folder}/b/imsd.sqlite3"}, "the database"),
        ({"policy_dir": "{folder}/b/policies"}, "the policies"),
        ({"block_server": {"cache_dir": "{folder}/b/cache"}}, "the cache of the block server"),
        ({"tls": {"cert_file": "{folder}/cert", "key_file": "{folder}/b/key"}}, "the key of TLS"),
    ],
)
def test_what_else_is_the_daemons_own_lies_in_no_bucket(
    tmp_path: Path, flags: dict[str, Any], said: str
) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(each) for key, each in value.items()}
        return value.replace("{folder}", str(tmp_path))

    check(tmp_path, "c", **placed(flags))
    assert f"holds {said}" in refusal(tmp_path, "b", **placed(flags))


def test_the_file_of_the_configuration_lies_in_no_bucket(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    file = tmp_path / "b" / "imsd.toml"
    file.write_text("drain_seconds = 5\n")
    check(tmp_path, "c", file)
    with pytest.raises(InvalidRequest, match="holds the configuration"):
        check(tmp_path, "b", file)


def test_a_database_server_lies_nowhere(tmp_path: Path) -> None:
    check(tmp_path, "b", database_url="postgresql+asyncpg://imsd@localhost/imsd")


def closed(folder: Path, **flags: Any) -> set[Path]:
    """What is closed for imports."""
    buckets = {"b": {"driver": "localfs", "path": str(folder / "web"), "projects": ["web"]}}
    config = load_config(None, {"state_dir": folder / "state", "buckets": buckets} | flags).config
    registry = load_plugins()
    stores = configured_stores(registry, config.stores, config.default_store)
    return set(closed_places(config, stores, configured_buckets(registry, config.buckets, config.region)))


def test_no_file_of_a_bucket_is_imported_by_its_path(tmp_path: Path) -> None:
    assert {tmp_path / "state", tmp_path / "web"} <= closed(tmp_path)


def test_the_files_beside_the_database_are_as_closed_as_it_is(tmp_path: Path) -> None:
    """SQLite makes them beside the file that a link leads to."""
    (tmp_path / "db").mkdir()
    (tmp_path / "link").symlink_to("db/real")
    found = closed(tmp_path, database_url=f"sqlite+aiosqlite:///{tmp_path}/link")
    beside = {tmp_path / "db" / f"real{suffix}" for suffix in ("-wal", "-shm", "-journal")}
    assert {tmp_path / "link"} | beside <= found


def check_s3(folder: Path, **bucket: Any) -> list[Path]:
    """A store in the bucket ``images`` of a service, below ``imsd``, and a bucket of the users."""
    service = {"driver": "s3", "endpoint": "https://s3.example.org"}
    values: dict[str, Any] = {
        "state_dir": folder / "state",
        "stores": {
            "main": {**service, "bucket": "images", "prefix": "imsd", "keys_file": str(folder / "keys")}
        },
        "buckets": {"b": {**service, **bucket}},
    }
    config = load_config(None, values).config
    registry = load_plugins()
    stores = configured_stores(registry, config.stores, config.default_store)
    buckets = configured_buckets(registry, config.buckets, config.region)
    require_apart(config, stores, buckets)
    return list(closed_places(config, stores, buckets))


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ({"bucket": "images"}, "holds the store 'main'"),
        ({"bucket": "images", "prefix": "imsd"}, "holds the store 'main'"),
        ({"bucket": "images", "prefix": "imsd/packs"}, "lies in the store 'main'"),
        ({"bucket": "images", "endpoint": "https://S3.example.org:443/"}, "holds the store 'main'"),
    ],
)
def test_a_bucket_of_a_service_does_not_share_objects_with_a_store(
    tmp_path: Path, bucket: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_s3(tmp_path, **bucket)
    assert (refused.value.reason, refused.value.field) == ("INVALID_CONFIGURATION", "buckets.b")
    assert said in refused.value.message


@pytest.mark.parametrize(
    "bucket",
    [
        {"bucket": "images", "prefix": "imsd-web"},
        {"bucket": "images", "prefix": "web"},
        {"bucket": "image"},
        {"bucket": "images", "endpoint": "https://other.example.org"},
    ],
)
def test_a_bucket_beside_a_store_in_a_service_is_taken(tmp_path: Path, bucket: dict[str, Any]) -> None:
    assert tmp_path / "keys" in check_s3(tmp_path, **bucket)


def test_a_bucket_does_not_hold_the_keys_of_a_service(tmp_path: Path) -> None:
    keys = tmp_path / "b" / "keys"
    store = {"driver": "s3", "bucket": "images", "endpoint": "https://s3.example.org", "keys_file": str(keys)}
    stores = {"main": {"driver": "localfs", "path": str(tmp_path / "images" / "store")}, "s3": store}
    assert "the key of the store 's3'" in refusal(tmp_path, "b", stores=stores)


SERVICE = {"driver": "s3", "endpoint": "https://s3.example.org", "bucket": "images"}


def check_stores(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    def section(options: dict[str, Any]) -> dict[str, Any]:
        if "path" in options:
            return {"driver": "localfs", "path": str(folder / options["path"])}
        return {**SERVICE, "keys_file": str(folder / "keys"), **options}

    sections = {"a": section(first), "b": section(second)}
    config = load_config(
        None, {"state_dir": folder / "state", "stores": sections, "default_store": "a"}
    ).config
    require_apart(config, configured_stores(load_plugins(), config.stores, config.default_store), [])


@pytest.mark.parametrize(
    ("first", "second", "inner"),
    [
        ({"path": "images"}, {"path": "images"}, "b"),
        ({"path": "images"}, {"path": "images/more"}, "b"),
        ({"path": "images/more"}, {"path": "x/../images"}, "a"),
        ({"prefix": "imsd"}, {"prefix": "imsd", "endpoint": "https://S3.example.org:443/"}, "b"),
        ({}, {"prefix": "imsd"}, "b"),
    ],
)
def test_two_stores_at_one_place_are_refused(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], inner: str
) -> None:
    with pytest.raises(InvalidRequest, match="lies in the place of the store") as refused:
        check_stores(tmp_path, first, second)
    assert (refused.value.reason, refused.value.field) == ("INVALID_CONFIGURATION", f"stores.{inner}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"path": "images"}, {"path": "images-more"}),
        ({"path": "images"}, {"prefix": "imsd"}),
        ({"prefix": "imsd"}, {"prefix": "imsd-more"}),
        ({"prefix": "imsd"}, {"prefix": "imsd", "bucket": "more"}),
    ],
)
def test_two_stores_side_by_side_are_taken(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    check_stores(tmp_path, first, second)
