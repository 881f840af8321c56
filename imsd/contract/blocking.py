"""Run a blocking call off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def run_blocking(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function`` in a thread of the loop's default pool; see `run_in_pool`."""
    return await run_in_pool(None, function, *args, **kwargs)


async def run_in_pool(
    pool: Executor | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call ``function`` in a thread of ``pool``; on cancellation, wait for the thread first.

    `asyncio.to_thread` returns at once when cancelled, while its thread goes on using descriptors
    and buffers that the caller is about to close or reuse.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _settle(future)
        raise


async def _settle(future: asyncio.Future[R]) -> None:
    """Wait until ``future`` is done, however often the waiting task is cancelled."""
    # A call that still waits in the pool's queue never starts; one that runs cannot be stopped.
    future.cancel()
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # retrieved here, or asyncio logs it as lost
