"""Reading what will be wanted before it is asked for, whenever nobody waits for anything else.

What was read at an earlier boot is fetched in its order, and what a client announced (CACHE) before that. It
goes to the cache on the disk: memory is for what is read now.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

import structlog

from imsd.contract import ImsError, Unavailable

from .access_trace import Entries
from .disk import Disk

log = structlog.get_logger(__name__)

# One fetch at a time, of so much of a disk.
STEP_BYTES = 1 << 20

# Pieces that may wait: 8 GiB.
MAX_STEPS = 16 << 10

# How often is looked whether others have got what they wait for; when the store is asked again.
YIELD_SECONDS = 0.02
RETRY_SECONDS = 5.0


class Prefetcher:
    """Of one attachment. ``disk``: the one it has now; ``turn``: shared by all.

    ``is_busy``: whether others wait for bytes.
    """

    def __init__(
        self, disk: Callable[[], Disk], turn: asyncio.Semaphore, is_busy: Callable[[], bool]
    ) -> None:
        self._disk = disk
        self._turn = turn
        self._is_busy = is_busy
        self._steps: deque[tuple[int, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many pieces wait."""
        return len(self._steps)

    @property
    def is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def follow(self, entries: Entries) -> None:
        """Fetch ``entries`` in their order, behind what waits."""
        self._steps += _steps(entries, MAX_STEPS - len(self._steps))
        self._start()

    def announce(self, start: int, length: int) -> None:
        """Fetch this first."""
        self._steps.extendleft(reversed(_steps([(start, length)], MAX_STEPS - len(self._steps))))
        self._start()

    def forget(self) -> None:
        """What waits, waits in vain."""
        self._steps.clear()

    async def close(self) -> None:
        self.forget()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        if self._steps and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._steps:
            if self._is_busy():
                await asyncio.sleep(YIELD_SECONDS)
                continue
            async with self._turn:
                if self._steps:
                    await self._fetch(*self._steps.popleft())

    async def _fetch(self, start: int, length: int) -> None:
        disk = self._disk()
        before = disk.stats.fetched_bytes
        try:
            await disk.fetch(start, length)
        except Unavailable:
            self._steps.appendleft((start, length))
            await asyncio.sleep(RETRY_SECONDS)
        except ImsError as error:  # whoever reads it will be told; here it is only earlier than needed
            log.info("nothing more is prefetched", error=error.message)
            self.forget()
        # Others may have fetched at the same time; it is a figure for people.
        disk.stats.prefetched_bytes += disk.stats.fetched_bytes - before


def _steps(entries: Entries, most: int) -> list[tuple[int, int]]:
    """The beginning of ``entries`` in pieces of at most `STEP_BYTES`, ``most`` of them, and no more work."""
    pieces = (
        (start + done, min(STEP_BYTES, length - done))
        for start, length in entries
        for done in range(0, length, STEP_BYTES)
    )
    return list(islice(pieces, most))
