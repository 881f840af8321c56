"""What is loaded: the configured stores and buckets with their drivers, and the drivers that nothing uses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .opened_stores import DriverStatus, OpenedStore, declared_status, status_of
from .plugin_registry import PluginRegistry
from .store_pool import StorePool


class DriverList:
    def __init__(self, registry: PluginRegistry, stores: StorePool, buckets: Sequence[OpenedStore]) -> None:
        self._registry = registry
        self._stores = stores
        self._buckets = buckets

    async def statuses(self) -> list[DriverStatus]:
        """Every configured store, every bucket, then every driver that none of them uses."""
        default = self._stores.default_name
        configured = await asyncio.gather(
            *(status_of(each, is_default=each.configured.name == default) for each in self._stores.opened),
            *(status_of(each) for each in self._buckets),
        )
        in_use = {status.name for status in configured}
        unused = (each for name, each in self._registry.stores.items() if name not in in_use)
        return [*configured, *map(declared_status, unused)]
