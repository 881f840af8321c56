"""Run a blocking call off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

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
    call = _Call(partial(function, *args, **kwargs))
    future = asyncio.get_running_loop().run_in_executor(pool, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if call.give_up():
            future.cancel()
        else:
            await _settle(future)
        raise
    finally:
        # An exception's traceback holds this frame: with the future in it they would keep each other,
        # and the buffers of the call, alive until the garbage collector comes by.
        del future, call


class _Call(Generic[R]):
    """A call that runs, or is given up before it starts; never both.

    Cancelling the future instead does not tell: it is `cancelled()` at once, also while a thread runs
    the call.
    """

    def __init__(self, call: Callable[[], R]) -> None:
        self._call: Callable[[], R] | None = call
        self._lock = threading.Lock()

    def __call__(self) -> R:
        call = self._take()
        if call is None:
            raise asyncio.CancelledError
        return call()

    def give_up(self) -> bool:
        """Keep the call from starting; False when it has."""
        return self._take() is not None

    def _take(self) -> Callable[[], R] | None:
        with self._lock:
            call, self._call = self._call, None
            return call


async def _settle(future: asyncio.Future[R]) -> None:
    """Wait until ``future`` is done, however often the waiting task is cancelled."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # retrieved here, or asyncio logs it as lost
