"""The decode pool: the threads that read formats, hash, compress; and the bytes they may hold.

One pool and one byte budget serve all jobs of a daemon, so that memory is bounded whatever the images
and however many run. A function given to the pool never waits: what it lacks it asks for by `NeedBytes`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ParamSpec, TypeVar

from imsd.contract import ImageRefused, run_in_pool
from imsd.formats.source import NeedBytes

P = ParamSpec("P")
R = TypeVar("R")

# Reniced workers keep control calls at p99 < 6 ms while both cores compress.
WORKER_NICENESS = 10

# A well-formed file needs two or three rounds (header, tables, data); a hostile one gets an end.
MAX_FETCH_ROUNDS = 64


class ByteBudget:
    """At most ``limit`` bytes in use; who comes first is served first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def limit(self) -> int:
        """No request takes more, whatever it asks for."""
        return self._limit

    @property
    def waiting(self) -> int:
        """How many requests wait for others to give back."""
        return len(self._waiting)

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Hold ``size`` bytes (at most the limit) inside the block."""
        await self.acquire(size)
        try:
            yield
        finally:
            self.release(size)

    async def acquire(self, size: int) -> None:
        """Wait for ``size`` bytes; whoever gets them calls `release`."""
        size = min(size, self._limit)
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)  # granted and cancelled at once
            else:
                self._waiting = deque(other for other in self._waiting if other[1] is not turn)
                self._grant()
            raise

    def release(self, size: int) -> None:
        self._free += min(size, self._limit)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)


class DecodePool:
    """Threads for work on bytes; see the module.

    ``is_nice``: they leave the processors to others who want them, such as the calls of a daemon.
    """

    def __init__(
        self, threads: int | None = None, budget_bytes: int = 64 << 20, *, is_nice: bool = True
    ) -> None:
        self.threads = threads or os.cpu_count() or 1
        self.budget = ByteBudget(budget_bytes)
        # What goes out takes of this one too, before it takes of the other: readers that are slow leave
        # at least half of the memory to what comes in.
        self.output_budget = ByteBudget(budget_bytes // 2)
        # What decoders of arriving files give, megabytes each, is outside the budget until it is in a window:
        # so many at once keep all threads busy.
        self.decoding = asyncio.Semaphore(self.threads + 1)
        self._executor = ThreadPoolExecutor(self.threads, "decode", _renice if is_nice else None)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``function`` in a thread, again whenever what it lacked has been fetched.

        Raises what the function raises, and what fetching raises.
        """
        async with AsyncExitStack() as at_hand:
            for _ in range(MAX_FETCH_ROUNDS):
                try:
                    return await run_in_pool(self._executor, function, *args, **kwargs)
                except NeedBytes as need:
                    source, ranges = need.source, need.ranges
                    # The tracebacks hold the buffers of the call that is made again.
                    need.__traceback__ = need.__context__ = None
                await at_hand.enter_async_context(source.fetching(ranges))
            raise ImageRefused(
                "reading one piece of the image refers to ever more places of the file",
                reason="IMAGE_MALFORMED",
                hint="write the image anew with the program it comes from",
            )

    def close(self) -> None:
        """Wait for the threads to end."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _renice() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)
    except (AttributeError, PermissionError):  # not Linux, or not allowed: only latency suffers
        return
