"""What is done for every store now and then, beside sweeping it; what fails is tried in the next round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from imsd.contract import ImsError
from imsd.core.runtime import Runtime

log = structlog.get_logger(__name__)

# What is done for a store, by its name.
Chore = Callable[[str], Awaitable[object]]


class StoreUpkeep:
    """Does ``chores``, in this order, for one ready store after the other."""

    def __init__(self, runtime: Runtime, *chores: Chore) -> None:
        self._runtime = runtime
        self._chores = chores
        self._periodic: asyncio.Task[None] | None = None

    def start(self, interval_seconds: float) -> None:
        """Begin now, and again every ``interval_seconds``."""
        self._periodic = asyncio.create_task(self._forever(interval_seconds), name="upkeep of stores")

    async def stop(self) -> None:
        if self._periodic:
            self._periodic.cancel()
            await asyncio.gather(self._periodic, return_exceptions=True)

    async def tick(self) -> None:
        """One round."""
        for store_name in self._runtime.stores.ready_names():
            for chore in self._chores:
                await _attempt(store_name, chore)

    async def _forever(self, interval_seconds: float) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(interval_seconds)


async def _attempt(store_name: str, chore: Chore) -> None:
    name = getattr(chore, "__qualname__", "")
    try:
        await chore(store_name)
    except ImsError as error:
        log.warning("upkeep put off", store=store_name, chore=name, reason=error.reason, detail=error.message)
    except Exception:
        log.exception("upkeep failed; the next round tries again", store=store_name, chore=name)
