"""What every part of the core works with: one database, one index, the stores, the decode pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import ChunkIndex
from imsd.metadata.database import Database

from .background import Background
from .page_token import PageTokens
from .store_pool import StorePool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """The operator's limits; sizes in bytes."""

    max_virtual_size_bytes: int
    max_upload_size_bytes: int
    staging_quota_bytes: int
    upload_part_bytes: int
    upload_expiry: timedelta
    max_running_create_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Passed to every part, never global.

    ``service_id`` names the database, ``instance_id`` this run of the daemon.
    """

    database: Database
    index: ChunkIndex
    stores: StorePool
    pool: DecodePool
    background: Background
    tokens: PageTokens
    limits: ServiceLimits
    region: str
    service_id: str
    instance_id: str
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
