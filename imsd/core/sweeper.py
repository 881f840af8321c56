"""When space is freed: soon after something was let go, and now and then from top to bottom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from imsd.chunks import garbage
from imsd.contract import ImsError
from imsd.metadata import jobs as job_rows
from imsd.metadata import requests as request_rows
from imsd.metadata import uploads as upload_rows

from .patience import Turns
from .runtime import Runtime
from .store_ownership import belongs_to

log = structlog.get_logger(__name__)

# A request id is remembered for a week: longer than any client retries.
REQUEST_AGE = timedelta(days=7)


# The row of a job that ended is kept for a month.
JOB_AGE = timedelta(days=30)

# Rows that one transaction removes: a daemon that was down for weeks has many to remove, and the writer is
# held no longer than that takes.
FORGET_BATCH = 1000

# Who cancels a job waits so long for what it leaves to be freed: in a store that hangs, it takes longer.
FREE_SECONDS = 120.0

# What is done in each round, beside sweeping: it lets go of what is due.
Chore = Callable[[], Coroutine[Any, Any, None]]


class Sweeper:
    """Sweeps each store, one sweep of a store at a time, and one walk through it beside that.

    A store that hangs holds up no other, see `Turns`.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._locks: dict[str, asyncio.Lock] = {}
        self._is_due: set[str] = set()
        self._turns = Turns()
        self._periodic: asyncio.Task[None] | None = None

    def start(self, interval_seconds: float, *chores: Chore) -> None:
        """Sweep everything now and every ``interval_seconds``; ``chores`` are done first."""
        self._periodic = asyncio.create_task(self._sweep_forever(interval_seconds, *chores), name="sweeper")

    async def stop(self) -> None:
        if self._periodic:
            self._periodic.cancel()
            await asyncio.gather(self._periodic, return_exceptions=True)
        await self._turns.stop()

    def wake(self, store_name: str) -> None:
        """Free what nothing holds in a store, soon, without waiting for it."""
        if store_name not in self._is_due:
            self._is_due.add(store_name)
            self._runtime.background.spawn(self._sweep(store_name), f"sweep of {store_name}")

    async def free(self, store_name: str) -> None:
        """Remove everything in a store that nothing holds any more; errors are logged.

        After `FREE_SECONDS` the sweep goes on, and who called does, too.
        """
        work = self._runtime.background.spawn(self._sweep(store_name), f"sweep of {store_name}")
        try:
            if not (await asyncio.wait([work], timeout=FREE_SECONDS))[0]:
                log.warning("a sweep takes long, and goes on in the background", store=store_name)
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def _sweep(self, store_name: str) -> None:
        async with self._locks.setdefault(store_name, asyncio.Lock()):
            self._is_due.discard(store_name)
            await self._free(store_name)

    async def _sweep_forever(self, interval_seconds: float, *chores: Chore) -> None:
        while True:
            await self.tick(*chores)
            await asyncio.sleep(interval_seconds)

    async def tick(self, *chores: Chore) -> None:
        """One round of everything; what fails stops nothing else and is tried again in the next round."""
        for chore in chores:
            await self._take_turn(chore.__qualname__, chore)
        await self._take_turn("removal of old rows", self._forget)
        for store_name in self._runtime.stores.ready_names():
            await self._take_turn(f"sweep of {store_name}", partial(self._sweep, store_name))
            await self._take_turn(f"walk through {store_name}", partial(self._free_orphans, store_name))

    async def _take_turn(self, what: str, work: Chore) -> None:
        await self._turns.take(what, partial(_attempt, what, work))

    async def _forget(self) -> None:
        now = self._runtime.clock()
        for forget, before in (
            (request_rows.forget_requests, now - REQUEST_AGE),
            (job_rows.forget_jobs, now - JOB_AGE),
        ):
            count = FORGET_BATCH
            while count == FORGET_BATCH:
                async with self._runtime.database.transaction() as c:
                    count = await forget(c, before, FORGET_BATCH)

    async def _free(self, store_name: str) -> None:
        try:
            store = self._runtime.stores.get(store_name)
            report = await garbage.sweep(store, store_name, self._runtime.index, find_orphans=False)
        except ImsError as error:
            log.warning("sweep put off", store=store_name, reason=error.reason, detail=error.message)
            return
        log.debug("swept", store=store_name, report=str(report))

    async def _free_orphans(self, store_name: str) -> None:
        """Without the lock: whoever cancels a job must not wait for a walk through the whole store.

        Only the periodic task walks, and `Turns` begins no second walk through a store.
        """
        store = self._runtime.stores.get(store_name)
        if not await belongs_to(store, self._runtime.service_id):
            log.error(
                "the store holds images of another database: blobs without a row are left alone",
                store=store_name,
                hint="start the daemon with the database of these images, or give it an empty store",
            )
            return
        report = await garbage.sweep_orphans(store, self._runtime.index, known_uploads=self._known_uploads)
        log.debug("walked", store=store_name, report=str(report))

    async def _known_uploads(self, upload_ids: list[str]) -> set[str]:
        async with self._runtime.database.reading() as c:
            return await upload_rows.known_uploads(c, upload_ids)


async def _attempt(what: str, work: Chore) -> None:
    try:
        await work()
    except ImsError as error:
        log.warning("housekeeping put off", what=what, reason=error.reason, detail=error.message)
    except Exception:
        log.exception("housekeeping failed; the next round tries again", what=what)
