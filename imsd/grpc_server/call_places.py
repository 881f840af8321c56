"""The calls that run at once, counted by caller: nobody takes the places of all others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from imsd.contract import LimitExceeded
from imsd.core.caller import Caller
from imsd.core.policies.entities import Uid, caller_uid

# Calls that run at once, watchers and streams included. gRPC refuses more on the unix sockets with
# RESOURCE_EXHAUSTED.
MAX_RUNNING_CALLS: Final = 256

# Of one user, with whatever tokens, or of one certificate.
MAX_CALLS_OF_ONE: Final = 64

# Of all but the local administrator, who must get in when the others took all they may have.
MAX_CALLS_OF_OTHERS: Final = MAX_RUNNING_CALLS - 32

# Of those who need not say who they are: they ask whether the daemon is well, and which calls there are.
MAX_CALLS_OF_STRANGERS: Final = 16


class CallPlaces:
    def __init__(self) -> None:
        self._taken: Counter[Uid] = Counter()

    @contextmanager
    def taken(self, caller: Caller) -> Iterator[None]:
        """A place for the call that runs in the block. Raises LimitExceeded; never for the administrator."""
        if caller.is_local_administrator:
            yield
            return
        who = caller_uid(caller)
        self._require_place(caller, self._taken[who])
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]

    def _require_place(self, caller: Caller, own: int) -> None:
        if own >= MAX_CALLS_OF_ONE:
            raise LimitExceeded(
                f"{own} calls of {caller.id} run already, and no caller has more at once",
                hint="wait until some have ended; end watches and transfers that nobody needs any more",
            )
        if self._taken.total() >= MAX_CALLS_OF_OTHERS:
            raise LimitExceeded("too many calls run at once", hint="try again in a moment")


class StrangerPlaces:
    """The calls of strangers that run at once. One too many takes the place of the oldest.

    So a stranger who keeps places keeps nobody from asking, who asks and goes.
    """

    def __init__(self) -> None:
        self._endings: dict[asyncio.Timeout, None] = {}  # the oldest first

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A place for the call that runs in the block. Raises LimitExceeded out of it when others want it."""
        if len(self._endings) >= MAX_CALLS_OF_STRANGERS:
            oldest = next(iter(self._endings))
            del self._endings[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(None) as ending:
                self._endings[ending] = None
                try:
                    yield
                finally:
                    self._endings.pop(ending, None)
        except TimeoutError:
            if not ending.expired():
                raise
            raise LimitExceeded(
                "others ask, and there are few places for calls that do not say who makes them",
                hint="ask again",
            ) from None
