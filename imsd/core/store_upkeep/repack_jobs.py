"""Repacking of stores: starting it, when asked and when enough of a store is dead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from imsd.core import checks
from imsd.core.dispatcher import Dispatcher
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import repacking

from .store_jobs import AGAIN_AFTER, REPACK, StoreJobs

# Less than this is not worth a job of its own accord.
MIN_DEAD_BYTES = 64 << 20

# Of a pack that is repacked when somebody asks and the configuration says nothing.
WHEN_ASKED = 60


@dataclass(frozen=True, slots=True)
class NewRepacking:
    """``dead_percent``: packs of which at least so much is needed by nobody; None: as configured."""

    store: str
    dead_percent: int | None = None
    is_dry_run: bool = False


class RepackJobs:
    """``dead_percent``: as configured; 0: only when asked, for packs with `WHEN_ASKED` percent."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, dead_percent: int) -> None:
        self._runtime = runtime
        self._jobs = StoreJobs(runtime, dispatcher, REPACK)
        self._dead_percent = dead_percent
        self._started: dict[str, datetime] = {}

    async def start(self, key: RequestKey, new: NewRepacking) -> str:
        """Start a REPACK_STORE job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest, Unavailable (DRIVER_NOT_READY), FailedPrecondition (REPACK_RUNNING).
        """
        percent = new.dead_percent if new.dead_percent is not None else self._dead_percent or WHEN_ASKED
        checks.number("dead_percent", percent, 1, 99)
        return await self._jobs.start(key, new.store, dead_percent=percent, is_dry_run=new.is_dry_run)

    async def start_if_due(self, store_name: str) -> None:
        """Start a job when packs are dead enough, and enough of them: what an earlier one could not empty
        is not tried again at once."""
        runtime, percent, now = self._runtime, self._dead_percent, self._runtime.clock()
        started = self._started.get(store_name)
        if not percent or (started and now - started < AGAIN_AFTER):
            return
        async with runtime.database.reading() as c:
            dead_bytes = await repacking.dead_bytes(c, store_name, percent)
        if dead_bytes < MIN_DEAD_BYTES:
            return
        async with runtime.database.transaction() as c:
            is_started = await self._jobs.start_alone(c, store_name, dead_percent=percent, is_dry_run=False)
        if is_started:
            self._started[store_name] = now
