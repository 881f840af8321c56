"""The configured stores, in which images lie.

Wrong configuration stops the start. A store is required if its section says so; by default, only the default
store is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from imsd.contract import BlobStore, NotFound, Unavailable

from .opened_stores import OpenedStore, open_configured, ready_store
from .plugin_registry import PluginRegistry
from .store_sections import configured_stores

# Of a name that is told back.
MAX_NAME = 64


class StorePool:
    """The stores by their configured names. ``opened``: all, in the order of the configuration."""

    def __init__(self, opened: Sequence[OpenedStore], default_name: str) -> None:
        self.default_name = default_name
        self.opened = opened
        self._by_name = {each.configured.name: each for each in opened}

    def get(self, name: str) -> BlobStore:
        """The opened store. Raises Unavailable (DRIVER_NOT_READY)."""
        return ready_store(self._by_name.get(name), "store", name)

    def choose(self, name: str) -> str:
        """The name of the store that a request asks for by ``name``; empty: the default store.

        Raises NotFound (STORE_NOT_FOUND), Unavailable (DRIVER_NOT_READY).
        """
        name = name or self.default_name
        if name not in self._by_name:
            raise store_not_found(name, self.names())
        if (found := self._by_name[name]).store is None:
            raise Unavailable(
                f"the store {name!r} is {found.state}: {found.detail}",
                reason="DRIVER_NOT_READY",
                field="store",
                hint=f"stores that are ready: {', '.join(self.ready_names()) or 'none'}",
            )
        return name

    def names(self) -> list[str]:
        """The names of all configured stores, in the order of the configuration."""
        return list(self._by_name)

    def ready_names(self) -> list[str]:
        """The names of the stores that are open, in the order of the configuration."""
        return [each.configured.name for each in self.opened if each.store is not None]


def store_not_found(name: str, known: Sequence[str]) -> NotFound:
    return NotFound(
        f"there is no store {name[:MAX_NAME]!r}",
        reason="STORE_NOT_FOUND",
        field="store",
        hint=f"the stores are {', '.join(known)}",
    )


@asynccontextmanager
async def open_store_pool(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], default_name: str
) -> AsyncIterator[StorePool]:
    """Open every store of ``sections`` (the tables ``[stores.NAME]``).

    Raises InvalidRequest (INVALID_CONFIGURATION), and what a required store raises when it is opened.
    """
    # All are understood before the first is opened: a typing error leaves nothing half-started.
    configured = configured_stores(registry, sections, default_name)
    async with AsyncExitStack() as stack:
        yield StorePool([await open_configured(stack, each) for each in configured], default_name)
