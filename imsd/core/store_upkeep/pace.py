"""Not faster than so many bytes a second, however unevenly they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# What was not used of the rate while others were waited for is caught up with for so long.
BURST_SECONDS = 0.25


class Pace:
    """``bytes_per_second`` 0: as fast as may be."""

    def __init__(
        self,
        bytes_per_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    async def spend(self, size_bytes: int) -> None:
        """Wait until what was spent before has had its time."""
        if not self._bytes_per_second:
            return
        now = self._clock()
        begin = max(self._free_at, now - BURST_SECONDS)
        self._free_at = begin + size_bytes / self._bytes_per_second
        if begin > now:
            await self._sleep(begin - now)
