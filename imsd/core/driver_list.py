"""What is loaded: stores, buckets and key services with their drivers, and the drivers that nothing uses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .keys.key_pool import KeyPool
from .opened_stores import DriverStatus, OpenedStore, declared_status, status_of
from .plugin_registry import PluginRegistry
from .store_pool import StorePool


class DriverList:
    def __init__(
        self, registry: PluginRegistry, stores: StorePool, buckets: Sequence[OpenedStore], keys: KeyPool
    ) -> None:
        self._registry = registry
        self._stores = stores
        self._buckets = buckets
        self._keys = keys

    async def statuses(self) -> list[DriverStatus]:
        """Every configured store, bucket and key service, then every driver that none of them uses."""
        default = self._stores.default_name
        configured = await asyncio.gather(
            *(status_of(each, is_default=each.configured.name == default) for each in self._stores.opened),
            *(status_of(each) for each in self._buckets),
        )
        keys = self._keys.statuses()
        used = {status.name for status in configured}, {status.name for status in keys}
        unused = (each for name, each in self._registry.stores.items() if name not in used[0])
        unused_keys = (each for name, each in self._registry.key_services.items() if name not in used[1])
        return [
            *configured,
            *keys,
            *map(declared_status, unused),
            *(declared_status(each, "key_service") for each in unused_keys),
        ]
