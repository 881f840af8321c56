"""Check a store: try on it what the contract of stores promises, and measure how fast it is.

The story: whatever an earlier run left below the job's own prefix is deleted. Then each promise is tried, in
a folder of its own, and what it wrote is deleted. In the end nothing is left, nor when the job is cancelled:
its prefix is known from its id alone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import ImsError
from imsd.core.job_run import JobRun, Workflow
from imsd.core.stores.store_check import CHECKS_PREFIX, Outcome, try_promises
from imsd.core.stores.store_rates import measure
from imsd.metadata.records import JobState
from imsd.promises.promise import Place
from imsd.promises.store_promises import STORE_PROMISES


class CheckStore(Workflow):
    """Its result is a report; a promise that is broken is no failure of the job."""

    async def run(self, run: JobRun) -> None:
        place = _place(run)
        run.enter("check", 0, (0.0, 0.0))
        with suppress(ImsError):  # a store that cannot be listed: that is for the promises to say
            await place.clear()
        count = len(STORE_PROMISES)

        def tell(done: int) -> None:
            run.enter("check", 0, (95.0 * done / count, 95.0 * min(done + 1, count) / count))

        tried = await try_promises(place.store, place.prefix, tell)
        rates = None
        if tried[0].outcome is Outcome.KEPT:
            run.enter("measure", 0, (95.0, 100.0))
            rates = asdict(await measure(place.store, f"{place.prefix}rates/"))
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
            await _place(run).clear()


def _place(run: JobRun) -> Place:
    """Raises Unavailable (DRIVER_NOT_READY)."""
    store = run.runtime.stores.get(str(run.record.spec["store"]))
    return Place(store, f"{CHECKS_PREFIX}{run.record.id}/")
