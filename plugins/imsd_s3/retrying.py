"""Trying again: with growing, random pauses, for a limited time, and within a budget of the whole store.

The budget keeps a service in trouble from being asked many times as much as one that is well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from .failures import Failure
from .options import S3StoreOptions

R = TypeVar("R")

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 8.0

# As the programs of AWS do: each retry takes so much of the budget, each success gives so much back.
BUDGET: Final = 500
COST: Final = 5
RETURN: Final = 1


class Retrying:
    """Of one store. ``retries`` and ``seconds`` bound one call, the budget all of them."""

    def __init__(self, options: S3StoreOptions) -> None:
        self._retries = options.retries
        self._seconds = options.retry_seconds
        self._budget = BUDGET

    async def call(self, attempt: Callable[[], Awaitable[R]], retries: int | None = None) -> R:
        """What ``attempt`` returns, or the `Failure` of its last try; ``retries`` instead of the store's."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        left = self._retries if retries is None else min(retries, self._retries)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                result = await attempt()
            except Failure as failure:
                wait = random.uniform(pause / 2, pause)
                is_late = loop.time() + wait > deadline
                if not left or is_late or not failure.meaning.is_worth_retrying or self._budget < COST:
                    raise
                self._budget -= COST
            else:
                self._budget = min(BUDGET, self._budget + RETURN)
                return result
            left -= 1
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(wait)
