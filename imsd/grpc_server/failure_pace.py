"""How fast calls of one caller that fail or are denied leave traces: each does, but above a rate it waits.

So whoever may do nothing cannot fill the disk with what he tries, and none of it is untold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from imsd.contract import wait_through
from imsd.core.caller import Caller
from imsd.core.policies.entities import Uid, caller_uid

# Of one caller. With the places that one may take at once (`call_places`), none waits longer than 8 s.
FAILURES_PER_SECOND: Final = 8
# So many at once wait for nothing.
BURST: Final = 200

# Callers that are remembered before those are forgotten who have rested long enough.
MAX_CALLERS: Final = 1000


class FailurePace:
    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._free_at: dict[Uid, float] = {}  # when a caller's next failure would be in time

    def next_wait(self, caller: Caller) -> float:
        """Seconds that the caller's next failure has to wait, which is taken to happen then."""
        if caller.is_local_administrator:
            return 0.0
        now, who = self._monotonic(), caller_uid(caller)
        if len(self._free_at) >= MAX_CALLERS and who not in self._free_at:
            self._free_at = {each: at for each, at in self._free_at.items() if at > now}
        at = max(self._free_at.get(who, now), now)
        self._free_at[who] = at + 1 / FAILURES_PER_SECOND
        return max(0.0, at - now - BURST / FAILURES_PER_SECOND)

    async def wait(self, caller: Caller) -> asyncio.CancelledError | None:
        """Wait for the caller's turn, also when the call is cut off: else that would be the way around it.

        Returns the cancellation that came meanwhile.
        """
        seconds = self.next_wait(caller)
        return await wait_through([asyncio.ensure_future(asyncio.sleep(seconds))]) if seconds else None
