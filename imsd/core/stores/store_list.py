"""The stores with what lies in them: what they say of themselves, and what the rows say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from imsd.core.opened_stores import DriverState, status_of
from imsd.core.runtime import Runtime
from imsd.core.store_pool import store_not_found
from imsd.metadata import store_usage
from imsd.metadata.store_usage import ProjectPart, StoredThings

# Of the projects that have something in a store, so many are named.
MAX_PROJECTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreView:
    """A store; ``driver`` is empty when it is configured no more. Bytes that it does not tell are None."""

    name: str
    driver: str = ""
    state: DriverState
    detail: str = ""
    is_default: bool = False
    capabilities: Sequence[str] = ()
    used_bytes: int | None = None
    free_bytes: int | None = None
    things: StoredThings


@dataclass(frozen=True, slots=True)
class StoreUsageView:
    """What lies in a store; ``projects``: those with most, of ``project_count``."""

    name: str
    things: StoredThings
    projects: Sequence[ProjectPart]
    project_count: int


class Stores:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def list(self) -> Sequence[StoreView]:
        """All that are configured, in order, then those in which there is something all the same."""
        stores = self._runtime.stores
        async with self._runtime.database.reading() as c:
            things = dict(await store_usage.stored_things(c))
        statuses = await asyncio.gather(*(status_of(each) for each in stores.opened))
        configured = [
            StoreView(
                name=status.instance,
                driver=status.name,
                state=status.state,
                detail=status.detail,
                is_default=status.instance == stores.default_name,
                capabilities=status.capabilities,
                used_bytes=status.used_bytes,
                free_bytes=status.free_bytes,
                things=things.pop(status.instance, StoredThings()),
            )
            for status in statuses
        ]
        return [*configured, *(_missing(name, things[name]) for name in sorted(things))]

    async def usage(self, name: str) -> StoreUsageView:
        """Of the default store if ``name`` is empty. Raises NotFound (STORE_NOT_FOUND)."""
        stores = self._runtime.stores
        name = name or stores.default_name
        async with self._runtime.database.reading() as c:
            things = (await store_usage.stored_things(c)).get(name)
            if things is None and name not in stores.names():
                raise store_not_found(name, stores.names())
            parts, count = await store_usage.project_parts(c, name, MAX_PROJECTS)
        return StoreUsageView(name, things or StoredThings(), parts, count)


def _missing(name: str, things: StoredThings) -> StoreView:
    detail = "it is not configured any more, and something of imsd lies in it: configure it again"
    return StoreView(name=name, state=DriverState.FAILED, detail=detail, things=things)
