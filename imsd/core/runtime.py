"""What every part of the core works with: one database, one index, the stores, the decode pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import ChunkIndex
from imsd.metadata.database import Database

from .background import Background
from .keys.data_keys import DataKeys
from .keys.key_pool import KeyPool
from .page_token import PageTokens
from .service_limits import ServiceLimits as ServiceLimits
from .store_pool import StorePool


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Passed to every part, never global.

    ``service_id`` names the database, ``instance_id`` this run of the daemon.
    """

    database: Database
    index: ChunkIndex
    stores: StorePool
    keys: KeyPool
    data_keys: DataKeys
    pool: DecodePool
    background: Background
    tokens: PageTokens
    limits: ServiceLimits
    region: str
    service_id: str
    instance_id: str
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
