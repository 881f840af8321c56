"""Waiting, but not for ever, for what a store may never answer.

A thread that a system call holds, of a file system that does not answer, say, heeds no cancellation, and
whoever waits for the thread waits as long. Here nobody does: what was given up ends when it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

# What takes longer goes on beside what comes after it.
TURN_SECONDS = 120.0

LET_GO_SECONDS = 5.0


async def within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """What ``call`` returns, or raises. Raises TimeoutError when it takes longer: then it is cancelled."""
    task = asyncio.create_task(call)
    task.add_done_callback(_heard)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError
    return task.result()


class Turns:
    """Work that is done now and then, one after the other; what hangs holds up nothing else.

    After `TURN_SECONDS` the next one begins; what is still under way is not begun a second time.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def take(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do ``work``, which raises nothing."""
        if name in self._under_way:
            log.warning("not begun again: it has not ended yet", work=name)
            return
        task = asyncio.create_task(work(), name=name)
        self._under_way[name] = task
        task.add_done_callback(self._ended)
        if not (await asyncio.wait([task], timeout=TURN_SECONDS))[0]:
            log.warning("it takes long, and goes on beside the others", work=name, seconds=TURN_SECONDS)

    async def stop(self) -> None:
        """End what is under way; what does not let go in time is left alone."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LET_GO_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task.get_name()]
        _heard(task)


def _heard(task: asyncio.Task[Any]) -> None:
    # Retrieved here, or asyncio logs it as lost.
    if not task.cancelled():
        task.exception()
