"""Check a store: try on it what the contract of stores promises, and measure how fast it is.

The story: whatever an earlier run left, or an earlier check of a store that deleted nothing, is deleted. Then
each promise is tried, in a folder of its own, and what it wrote is deleted; then the store is measured. In
the end nothing is left, nor when the job is cancelled: its prefix is known from its id alone. A store that
hangs keeps a job that was cancelled from its end, and no other check from its turn.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import ImsError
from imsd.core.job_run import JobRun, Workflow
from imsd.core.stores.store_check import CHECKS_PREFIX, Outcome, clear, try_promises
from imsd.core.stores.store_rates import measure
from imsd.metadata.records import JobState
from imsd.promises.promise import Place
from imsd.promises.store_promises import STORE_PROMISES

# Of a store that takes longer the rates are not told.
MEASURE_SECONDS = 600.0


class CheckStore(Workflow):
    """Its result is a report; a promise that is broken is no failure of the job."""

    async def run(self, run: JobRun) -> None:
        place = _place(run)
        run.enter("check", 0, (0.0, 0.0))
        with suppress(ImsError):  # a store that cannot be listed: that is for the promises to say
            await clear(Place(place.store, CHECKS_PREFIX))  # of this store, no other check is at work
        count = len(STORE_PROMISES)

        def tell(done: int) -> None:
            run.enter("check", 0, (95.0 * done / count, 95.0 * min(done + 1, count) / count))

        tried = await try_promises(place.store, place.prefix, tell)
        rates = None
        if tried[0].outcome is Outcome.KEPT:
            run.enter("measure", 0, (95.0, 100.0))
            rates = await _rates(place)
        report = {
            "store": run.record.spec["store"],
            "promises": [asdict(each) for each in tried],
            "rates": rates,
        }
        async with run.runtime.database.transaction() as c:
            await run.succeed(c, report)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        return None

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Delete what is left; a check that went through has left nothing."""
        if state is not JobState.SUCCESS:
            await clear(_place(run))


async def _rates(place: Place) -> dict[str, Any] | None:
    """None: it takes too long. Raises what the store raises."""
    rates = None
    with suppress(TimeoutError):
        async with asyncio.timeout(MEASURE_SECONDS):
            rates = asdict(await measure(place.store, f"{place.prefix}rates/"))
    await clear(place)
    return rates


def _place(run: JobRun) -> Place:
    """Raises Unavailable (DRIVER_NOT_READY)."""
    store = run.runtime.stores.get(str(run.record.spec["store"]))
    return Place(store, f"{CHECKS_PREFIX}{run.record.id}/")
