"""Waiting between attempts."""

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


class Backoff:
    """Waits longer after every failure in a row, and gives up after ``patience_seconds`` without progress.

    ``jitter`` returns 0..1 and keeps many clients from coming back at the same instant.
    """

    def __init__(self, patience_seconds: float, jitter: Callable[[], float] = random.random) -> None:
        self._patience = patience_seconds
        self._jitter = jitter
        self._delay = FIRST_SECONDS
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Something went forward: the next failure is the first again."""
        self._delay = FIRST_SECONDS
        self._failing_since = None

    async def wait(self) -> bool:
        """Wait before the next attempt; False, at once, when patience is over."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._patience:
            return False
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
            return await call()
        except CallFailed as error:
            if not error.is_transient or not await backoff.wait():
                raise
