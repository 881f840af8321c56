"""Trying the promises of the contract on a store in use, below a prefix of the check's own.

Nothing of images is touched, and everything below the prefix is deleted: here after each promise, and by the
job when it ends otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from imsd.contract import BlobStore, ImsError, Unavailable
from imsd.promises.promise import BrokenPromise, NotOffered, Place, Promise
from imsd.promises.store_promises import STORE_PROMISES

CHECKS_PREFIX = "checks/"

# A promise takes seconds at most, and so does deleting what it wrote: a store that hangs must not keep the
# check.
PROMISE_SECONDS = 180.0
CLEAR_SECONDS = 180.0


class Outcome(StrEnum):
    KEPT = "kept"
    BROKEN = "broken"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of a promise; ``detail``: what the store did, or why it was skipped."""

    name: str
    summary: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0


async def try_promises(
    store: BlobStore,
    prefix: str,
    on_progress: Callable[[int], None],
    promises: Sequence[Promise] = STORE_PROMISES,
    seconds: float = PROMISE_SECONDS,
) -> list[Tried]:
    """Try one after the other; ``on_progress`` is told how many are done.

    If the first one is broken, whether the store takes blobs and gives them back, the others are skipped.
    Raises as `clear` when what was written cannot be deleted. Who cancels it clears the prefix himself.
    """
    results: list[Tried] = []
    for number, promise in enumerate(promises):
        on_progress(number)
        place = Place(store, f"{prefix}{number}/")
        if results and results[0].outcome is Outcome.BROKEN:
            results.append(_skipped(promise))
            continue
        results.append(await _try(promise, place, seconds))
        await _clear_if_written(place, results)
    on_progress(len(promises))
    return results


async def clear(place: Place) -> None:
    """Delete everything there. Raises what the store raises, and Unavailable when it does not answer."""
    try:
        async with asyncio.timeout(CLEAR_SECONDS):
            await place.clear()
    except TimeoutError:
        raise Unavailable(
            f"the store did not delete what lies below {place.prefix} within {CLEAR_SECONDS:g} seconds",
            reason="STORE_UNAVAILABLE",
            hint="see whether it answers; what is left is deleted as soon as it does",
        ) from None


async def _try(promise: Promise, place: Place, seconds: float) -> Tried:
    started = monotonic()
    outcome, detail = Outcome.KEPT, ""
    try:
        async with asyncio.timeout(seconds):
            await promise.check(place)
    except NotOffered as why:
        outcome, detail = Outcome.SKIPPED, str(why)
    except BrokenPromise as error:
        outcome, detail = Outcome.BROKEN, str(error)
    except TimeoutError:
        outcome, detail = Outcome.BROKEN, f"it was not done after {seconds:g} seconds"
    except ImsError as error:
        outcome, detail = Outcome.BROKEN, f"{error.message} [{error.reason}]"
    except Exception as error:  # a defect of the driver, which is what is looked for
        outcome, detail = Outcome.BROKEN, f"{type(error).__name__}: {error}"
    return Tried(
        name=promise.name,
        summary=promise.summary,
        outcome=outcome,
        detail=detail,
        seconds=round(monotonic() - started, 3),
    )


async def _clear_if_written(place: Place, results: Sequence[Tried]) -> None:
    """A store that took nothing need not let go of anything: it may be away, or not take changes at all."""
    try:
        await clear(place)
    except ImsError:
        if results[0].outcome is not Outcome.BROKEN:
            raise


def _skipped(promise: Promise) -> Tried:
    detail = "the store does not take blobs and give them back"
    return Tried(name=promise.name, summary=promise.summary, outcome=Outcome.SKIPPED, detail=detail)
