"""Waiting between attempts, and telling of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import CallFailed

T = TypeVar("T")

# How long a transfer or a watch goes on without reaching the daemon: a restart, with recovery, fits in.
PATIENCE_SECONDS = 120.0
FIRST_SECONDS = 0.1
LONGEST_SECONDS = 3.0


class Outages:
    """Tells the user of a client that the daemon does not answer, and that it does again, once each.

    ``on_begin`` gets the failure and for how many seconds calls are made again.
    """

    def __init__(self) -> None:
        self.on_begin: Callable[[CallFailed, float], None] = lambda error, seconds: None
        self.on_end: Callable[[], None] = lambda: None
        self._is_on = False

    def begin(self, error: CallFailed, patience_seconds: float) -> None:
        """Another call failed."""
        if not self._is_on:
            self._is_on = True
            self.on_begin(error, patience_seconds)

    def end(self) -> None:
        """A call got through."""
        if self._is_on:
            self._is_on = False
            self.on_end()


class Backoff:
    """Waits longer after every failure in a row, and gives up after ``patience_seconds`` without progress.

    ``jitter`` returns 0..1 and keeps many clients from coming back at the same instant.
    """

    def __init__(
        self,
        patience_seconds: float,
        jitter: Callable[[], float] = random.random,
        outages: Outages | None = None,
    ) -> None:
        self._patience = patience_seconds
        self._jitter = jitter
        self._outages = outages or Outages()
        self._failures = 0
        self._delay = FIRST_SECONDS
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Something went forward: the next failure is the first again."""
        self._delay = FIRST_SECONDS
        self._failing_since = None
        self.reached()

    def reached(self) -> None:
        """The daemon answered, though nothing has gone forward yet."""
        self._failures = 0
        self._outages.end()

    async def wait(self, error: CallFailed) -> bool:
        """Wait before the next attempt after ``error``; False, at once, when patience is over."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._patience:
            return False
        self._failures += 1
        if self._failures > 1 and error.is_transient:  # a stream that just broke is often mended at once
            self._outages.begin(error, self._patience)
        await asyncio.sleep(self._delay * (0.5 + self._jitter() / 2))
        self._delay = min(self._delay * 2, LONGEST_SECONDS)
        return True


async def patiently(call: Callable[[], Awaitable[T]], backoff: Backoff | None = None) -> T:
    """The answer of ``call``, which is safe to repeat, made again while the daemon cannot be reached.

    Raises `CallFailed`: at once when refused, the last one when patience is over.
    """
    backoff = backoff or Backoff(PATIENCE_SECONDS)
    while True:
        try:
            answer = await call()
        except CallFailed as error:
            if not error.is_transient or not await backoff.wait(error):
                raise
        else:
            backoff.succeeded()
            return answer
