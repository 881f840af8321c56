"""Work that outlives a cancellation: it has ended, or never starts, when the caller goes on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from imsd.contract import run_blocking, run_in_pool, settle


@pytest.fixture
def one_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def started(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


async def test_results_and_exceptions_come_back(one_thread: ThreadPoolExecutor) -> None:
    assert await run_in_pool(one_thread, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_blocking(divmod, 7, 0)


async def test_a_cancelled_call_that_runs_is_waited_for(one_thread: ThreadPoolExecutor) -> None:
    running, released = threading.Event(), threading.Event()
    is_over = False

    def work() -> None:
        nonlocal is_over
        running.set()
        released.wait(10)
        time.sleep(0.05)
        is_over = True

    task = asyncio.create_task(run_in_pool(one_thread, work))
    await started(running)
    for _ in range(3):  # cancelled again and again
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    released.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert is_over


async def test_a_cancelled_call_that_waits_in_the_queue_never_starts(one_thread: ThreadPoolExecutor) -> None:
    running, released = threading.Event(), threading.Event()
    calls: list[str] = []

    def occupy() -> None:
        running.set()
        released.wait(10)

    first = asyncio.create_task(run_in_pool(one_thread, occupy))
    await started(running)
    second = asyncio.create_task(run_in_pool(one_thread, calls.append, "second"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second], timeout=5)
    assert second.cancelled()  # at once, though the pool is busy
    released.set()
    await first
    await run_in_pool(one_thread, calls.append, "third")
    assert calls == ["third"]


async def test_an_exception_of_a_cancelled_call_is_not_reported_as_lost(
    one_thread: ThreadPoolExecutor,
) -> None:
    running, released = threading.Event(), threading.Event()
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))

    def fail() -> None:
        running.set()
        released.wait(10)
        raise ValueError

    task = asyncio.create_task(run_in_pool(one_thread, fail))
    await started(running)
    task.cancel()
    released.set()
    await asyncio.wait([task])
    assert task.cancelled()
    del task
    await asyncio.sleep(0)
    assert reports == []


class Buffer(bytearray):
    """One that can be referred to weakly."""


@pytest.mark.parametrize("own_pool", [False, True])
async def test_a_call_that_fails_keeps_no_buffer(own_pool: bool) -> None:
    """Without the garbage collector, which comes late: a damaged image fails thousands of times."""

    def fail(buffer: Buffer) -> None:
        raise ValueError(len(buffer))

    async def attempt(pool: ThreadPoolExecutor | None) -> weakref.ref[Buffer]:
        buffer = Buffer(10)
        with suppress(ValueError):
            await run_in_pool(pool, fail, buffer)
        return weakref.ref(buffer)

    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            kept = [await attempt(pool if own_pool else None) for _ in range(20)]
            await run_in_pool(pool if own_pool else None, int)  # the thread drops what it did before
            assert sum(ref() is not None for ref in kept) <= 1
    finally:
        gc.enable()


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_task_that_is_settled_has_ended_and_its_error_counts_most(ends_well: bool) -> None:
    may_end = asyncio.Event()

    async def work() -> int:
        await may_end.wait()
        if not ends_well:
            raise ZeroDivisionError
        return 42

    working = asyncio.create_task(work())
    settling = asyncio.create_task(settle(working))
    for _ in range(3):
        await asyncio.sleep(0)
        settling.cancel()
    await asyncio.sleep(0)
    assert not settling.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError if ends_well else ZeroDivisionError):
        await settling
    assert working.done()


async def test_a_settled_task_gives_its_result() -> None:
    assert await settle(asyncio.create_task(asyncio.sleep(0, "done"))) == "done"
