"""Work that is waited for to its end, also by a task that is cancelled: blocking calls, and tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

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
    try:
        return await call.start(pool)
    except asyncio.CancelledError:
        if not call.give_up():
            await call.settled()
        raise
    finally:
        # An exception's traceback holds this frame and that of the thread, and both hold the call. If it
        # held the exception, all would stay until the garbage collector comes, with the buffers in use.
        call.forget()


async def wait_through(futures: Collection[asyncio.Future[Any]]) -> asyncio.CancelledError | None:
    """Wait until all are done, however often the waiting task is cancelled; returns its last cancellation.

    Raises nothing: who calls decides what to make of it, and of what the futures ended with.
    """
    cancelled: asyncio.CancelledError | None = None
    while running := [future for future in futures if not future.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def settle(task: asyncio.Task[R]) -> R:
    """What ``task`` returns or raises, also when the waiting task is cancelled; else its cancellation."""
    cancelled = await wait_through([task])
    result = task.result()
    if cancelled:
        raise cancelled
    return result


class _Call(Generic[R]):
    """A call that runs, or is given up before it starts; never both.

    A thread tells the event loop itself: `asyncio.wrap_future` needs three futures and twice the time,
    and its future is `cancelled()` at once, also while a thread runs the call.
    """

    def __init__(self, function: Callable[[], R]) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[R] | None = None
        self._is_settled = False
        self._settling: asyncio.Future[None] | None = None
        self._function: Callable[[], R] | None = function
        self._lock = threading.Lock()

    def start(self, pool: Executor | None) -> asyncio.Future[R]:
        """Its future, of which this keeps hold until `forget`."""
        outcome = self._outcome = self._loop.create_future()
        if pool is None:
            self._loop.run_in_executor(None, self)
        else:
            pool.submit(self).add_done_callback(self._when_done)
        return outcome

    def forget(self) -> None:
        self._outcome = None

    def give_up(self) -> bool:
        """Keep the call from starting; False when it has."""
        return self._take() is not None

    async def settled(self) -> None:
        """Wait until no thread runs the call, however often the waiting task is cancelled."""
        while not self._is_settled:
            self._settling = self._settling or self._loop.create_future()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._settling])
        if self._outcome and self._outcome.done() and not self._outcome.cancelled():
            self._outcome.exception()  # retrieved here, or asyncio logs it as lost

    def __call__(self) -> None:
        """In a thread."""
        function = self._take()
        if function is None:
            return
        try:
            result = function()
        except BaseException as error:
            if isinstance(error, StopIteration):  # which no future takes
                error = RuntimeError("a blocking call raised StopIteration")
            self._tell(self._fail, error)
        else:
            self._tell(self._succeed, result)

    def _take(self) -> Callable[[], R] | None:
        with self._lock:
            function, self._function = self._function, None
            return function

    def _when_done(self, future: Future[None]) -> None:
        if future.cancelled():  # its pool was closed first
            self._tell(self._cancel)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(function, *args)

    def _cancel(self) -> None:
        if self._outcome:
            self._outcome.cancel()

    def _succeed(self, result: R) -> None:
        if self._outcome and not self._outcome.done():
            self._outcome.set_result(result)
        self._settle()

    def _fail(self, error: BaseException) -> None:
        if self._outcome and not self._outcome.done():
            self._outcome.set_exception(error)
        self._settle()

    def _settle(self) -> None:
        self._is_settled = True
        if self._settling and not self._settling.done():
            self._settling.set_result(None)
