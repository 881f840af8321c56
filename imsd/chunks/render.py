"""Work done ahead of its turn: pieces rendered in parallel and handed out in order.

    async with aclosing(render(writer, pool)) as pieces:
        async for outputs in pieces: ...

Leaving the block early, by an error or by cancellation, ends every task and waits for its thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, TypeVar

from imsd.contract import wait_through
from imsd.formats.output import Output, held_bytes
from imsd.formats.writer import FormatWriter

from .decode_pool import DecodePool

R = TypeVar("R")
AsyncCall = Callable[[], Coroutine[Any, Any, R]]

# What one piece renders, about 4 MiB, and what it is rendered from, as much again.
PIECE_COST_BYTES = 8 << 20


async def render(
    writer: FormatWriter, pool: DecodePool, depth: int | None = None
) -> AsyncGenerator[Sequence[Output], None]:
    """The file of a writer, piece by piece; its measuring pass runs before the first.

    At most ``depth`` pieces (two more than the pool has threads, unless told) are rendered or
    wait to be taken; each holds a share of the pool's budget until the next one is asked for.
    Raises what the writer's pieces raise, at their turn.
    """
    async with aclosing(in_order(pool, _in_pool(pool, writer.measure()), lambda _: 0, depth)) as measured:
        async for _ in measured:
            pass
    async with aclosing(in_order(pool, _in_pool(pool, writer.pieces()), held_bytes, depth)) as pieces:
        async for outputs in pieces:
            yield writer.in_turn(outputs)
            del outputs  # or it would stay in memory, uncounted, until the next piece is ready
    if closing := writer.closing():
        yield closing


async def in_order(
    pool: DecodePool,
    calls: Iterable[AsyncCall[R]],
    kept_bytes: Callable[[R], int],
    depth: int | None = None,
) -> AsyncGenerator[R, None]:
    """The results of ``calls`` in order; up to ``depth`` of them are made ahead of their turn.

    A call holds `PIECE_COST_BYTES` of the pool's two budgets while it runs, and then what ``kept_bytes``
    says of its result until the next one is asked for. So a consumer that stops asking keeps ``depth``
    results: give it a time limit. While others wait, nothing more is made ahead of its turn.

    Budget is taken by the calls in their order, never by this loop: whoever holds budget can always hand
    over its oldest result, so renderings that share a budget do not wait for each other in a circle.
    """
    ahead = Ahead(pool, iter(calls), kept_bytes, depth or pool.threads + 2)
    try:
        while (task := ahead.next()) is not None:
            await asyncio.wait([task])
            yield task.result()
            ahead.release_oldest()
            del task  # and its result
    finally:
        await ahead.stop()


class Ahead(Generic[R]):
    """The tasks of `in_order`: those that run, and those whose result waits."""

    def __init__(
        self,
        pool: DecodePool,
        calls: Iterator[AsyncCall[R]],
        kept_bytes: Callable[[R], int],
        depth: int,
    ) -> None:
        self._pool = pool
        self._calls = calls
        self._kept_bytes = kept_bytes
        self._depth = depth
        self._cost_bytes = min(PIECE_COST_BYTES, pool.output_budget.limit)
        self._tasks: deque[asyncio.Task[R]] = deque()
        self._held_bytes: dict[asyncio.Task[R], int] = {}
        self._waiting = 0

    def next(self) -> asyncio.Task[R] | None:
        """Start what may start; the oldest task, or None when all is done."""
        depth = 1 if self._pool.output_budget.waiting > self._waiting else self._depth
        while len(self._tasks) < depth and (call := next(self._calls, None)) is not None:
            self._tasks.append(asyncio.create_task(self._run(call)))
        return self._tasks[0] if self._tasks else None

    def release_oldest(self) -> None:
        self._keep(self._tasks.popleft(), 0)

    async def stop(self) -> None:
        """End all tasks, however often the waiting one is cancelled meanwhile."""
        for task in self._tasks:
            task.cancel()
        cancelled = await wait_through(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.exception()  # retrieved here, or asyncio logs it as lost
            self._keep(task, 0)
        self._tasks.clear()
        if cancelled:
            raise cancelled

    async def _run(self, call: AsyncCall[R]) -> R:
        await self._take_budget()
        task = asyncio.current_task()
        assert task is not None
        self._held_bytes[task] = self._cost_bytes
        result = await call()
        self._keep(task, self._kept_bytes(result))
        return result

    async def _take_budget(self) -> None:
        self._waiting += 1
        try:
            await self._pool.output_budget.acquire(self._cost_bytes)
        finally:
            self._waiting -= 1
        try:
            await self._pool.budget.acquire(self._cost_bytes)
        except BaseException:
            self._pool.output_budget.release(self._cost_bytes)
            raise

    def _keep(self, task: asyncio.Task[R], size: int) -> None:
        """Give back what ``task`` holds of the budgets, but for ``size`` bytes."""
        held = self._held_bytes.pop(task, 0)
        kept = min(size, held)
        if kept:
            self._held_bytes[task] = kept
        if held > kept:
            self._pool.budget.release(held - kept)
            self._pool.output_budget.release(held - kept)


def _in_pool(pool: DecodePool, calls: Iterable[Callable[[], R]]) -> Iterator[AsyncCall[R]]:
    return (partial(pool.run, call) for call in calls)
