"""What is done for every store now and then, beside sweeping it; what fails is tried in the next round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from imsd.contract import ImsError
from imsd.core.dispatcher import Dispatcher
from imsd.core.patience import Turns
from imsd.core.runtime import Runtime

from .counting import PackCounting
from .repack_jobs import RepackJobs
from .scrub_jobs import ScrubJobs, ScrubSettings
from .space import Space

log = structlog.get_logger(__name__)

# What is done for a store, by its name.
Chore = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepSettings:
    """``dead_percent``: packs of which so much is dead are repacked by themselves; 0: none."""

    scrubs: ScrubSettings
    dead_percent: int


class StoreUpkeep:
    """Counts, scrubs and repacks one ready store after the other, when that is due; see `Turns`."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, settings: UpkeepSettings) -> None:
        self._runtime = runtime
        self._counting = PackCounting(runtime)
        self.space = Space(runtime, self._counting)
        self.scrubs = ScrubJobs(runtime, dispatcher, settings.scrubs)
        self.repacking = RepackJobs(runtime, dispatcher, settings.dead_percent)
        self._turns = Turns()
        self._periodic: asyncio.Task[None] | None = None

    def choose(self, store_name: str) -> str:
        """The store that a request names, or the default one. Raises NotFound, Unavailable."""
        return self._runtime.stores.choose(store_name)

    def start(self, interval_seconds: float) -> None:
        """Begin now, and again every ``interval_seconds``."""
        self._periodic = asyncio.create_task(self._forever(interval_seconds), name="upkeep of stores")

    async def stop(self) -> None:
        if self._periodic:
            self._periodic.cancel()
            await asyncio.gather(self._periodic, return_exceptions=True)
        await self._turns.stop()

    async def tick(self) -> None:
        """One round."""
        for store_name in self._runtime.stores.ready_names():
            await self._turns.take(f"upkeep of {store_name}", partial(self._look_after, store_name))

    async def _look_after(self, store_name: str) -> None:
        for chore in (self._counting.count_store, self.scrubs.start_if_due, self.repacking.start_if_due):
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
