"""A runtime of real parts for tests of the core, in memory where a test need not have more."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import ChunkIndex
from imsd.contract import BlobStore, KeyService, StoreDriver
from imsd.core.background import Background
from imsd.core.bucket_sections import BucketSection, ConfiguredBucket
from imsd.core.buckets import Bucket, Buckets
from imsd.core.import_roots import ImportRoots
from imsd.core.keys.data_keys import DataKeys
from imsd.core.keys.key_pool import KeyPool, OpenedKeyService
from imsd.core.keys.key_sections import ConfiguredKeyService
from imsd.core.opened_stores import DriverState, OpenedStore
from imsd.core.page_token import PageTokens
from imsd.core.plugin_registry import DeclaredDriver
from imsd.core.runtime import Runtime, ServiceLimits
from imsd.core.sources import Sources
from imsd.core.store_pool import StorePool
from imsd.core.store_sections import ConfiguredStore
from imsd.core.url_policy import UrlPolicy
from imsd.core.url_settings import UrlLimits, UrlSettings, trusted_authorities
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.connection import UnbrokenConnection
from imsd.metadata.database import Database

STORE = "main"


def now() -> datetime:
    return datetime.now(UTC)


def new_id() -> str:
    return str(uuid.uuid4())


def pool_of(**stores: BlobStore) -> StorePool:
    declared: Any = None  # only the listing of drivers asks for it
    opened = [
        OpenedStore(ConfiguredStore(name, declared, None, False), DriverState.READY, "", store)
        for name, store in stores.items()
    ]
    return StorePool(opened, STORE)


def buckets_of(
    region: str = "local", said: Mapping[str, BucketSection] | None = None, **stores: BlobStore
) -> Buckets:
    """Buckets of every project, in region local, unless ``said`` says otherwise of one."""
    buckets = []
    for name, store in stores.items():
        driver: Any = StoreDriver(name="memory", summary="", options=object, open=_never_opened)
        own = (said or {}).get(name, BucketSection("memory", ("*",)))
        configured = ConfiguredStore(name, DeclaredDriver(driver, "test"), None, False, "bucket")
        opened = OpenedStore(configured, DriverState.READY, "", store)
        buckets.append(Bucket(ConfiguredBucket(configured, own, own.region or "local"), opened))
    return Buckets(buckets, region)


def _never_opened(options: object) -> AbstractAsyncContextManager[BlobStore]:
    raise AssertionError("the store is there")


def key_pool_of(service: KeyService | None) -> KeyPool:
    """The key service "main", if there is one."""
    if service is None:
        return KeyPool()
    declared: Any = None  # only the listing of drivers asks for it
    configured = ConfiguredKeyService("main", declared, None, False)
    return KeyPool([OpenedKeyService(configured, DriverState.READY, "", service)])


def sources_of(runtime: Runtime, *roots: Path, buckets: Buckets | None = None) -> Sources:
    """Sources of which only local paths and objects can be opened."""
    urls = UrlSettings(UrlPolicy(), UrlLimits(), trusted_authorities(None))
    parts = (ImportRoots(roots), buckets or buckets_of(), runtime.pool)
    return Sources(urls, *parts, runtime.limits.upload_part_bytes)


def some_limits() -> ServiceLimits:
    """Small where a test would wait; files may be as large as disks."""
    return ServiceLimits(
        max_virtual_size_bytes=1 << 40,
        max_upload_size_bytes=1 << 40,
        staging_quota_bytes=1 << 40,
        upload_part_bytes=1 << 20,
        upload_expiry=timedelta(hours=1),
        max_running_create_jobs=1,
        max_import_bytes=1 << 40,
    )


@asynccontextmanager
async def open_runtime(
    database: Database,
    stores: StorePool,
    index: ChunkIndex | None = None,
    key_service: KeyService | None = None,
) -> AsyncIterator[Runtime]:
    keys = key_pool_of(key_service)
    pool, background = DecodePool(1), Background()
    try:
        yield Runtime(
            database=database,
            index=index or SqlChunkIndex(database, now),
            stores=stores,
            keys=keys,
            data_keys=DataKeys(database, keys, now),
            pool=pool,
            background=background,
            tokens=PageTokens(b"x" * 32),
            limits=some_limits(),
            region="local",
            service_id=new_id(),
            instance_id=new_id(),
            clock=now,
            new_id=new_id,
        )
    finally:
        await background.settle()  # before the database goes
        pool.close()


def leave_at_commit(monkeypatch: pytest.MonkeyPatch, calling: asyncio.Future[Any]) -> None:
    """Have the caller of ``calling``, a task, leave while what it asked for is committed."""
    commit = UnbrokenConnection.commit

    async def leave(connection: UnbrokenConnection) -> None:
        if asyncio.current_task() is calling:
            calling.cancel()
        await commit(connection)

    monkeypatch.setattr(UnbrokenConnection, "commit", leave)
