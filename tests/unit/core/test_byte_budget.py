"""The byte budget that all jobs share: first come, first served, nothing lost on cancellation."""

import asyncio

import pytest

from imsd.chunks.decode_pool import ByteBudget


async def test_who_comes_first_is_served_first() -> None:
    budget = ByteBudget(10)
    order: list[str] = []

    async def take(name: str, size: int) -> None:
        async with budget.reserve(size):
            order.append(name)
            await asyncio.sleep(0)

    await budget.acquire(8)
    waiting = [asyncio.create_task(take("large", 9)), asyncio.create_task(take("small", 1))]
    await asyncio.sleep(0)
    assert order == []  # the small one fits, but it came later
    budget.release(8)
    await asyncio.gather(*waiting)
    assert order == ["large", "small"]


async def test_more_than_the_limit_waits_for_all_of_it() -> None:
    budget = ByteBudget(10)
    async with budget.reserve(1000):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(budget.acquire(1), 0.01)
    await asyncio.wait_for(budget.acquire(10), 1)


async def test_a_cancelled_waiter_lets_the_next_one_go() -> None:
    budget = ByteBudget(10)
    await budget.acquire(5)
    first = asyncio.create_task(budget.acquire(10))
    second = asyncio.create_task(budget.acquire(5))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    with pytest.raises(TimeoutError):  # all ten bytes are held now
        await asyncio.wait_for(budget.acquire(1), 0.01)


async def test_nothing_is_lost_when_grant_and_cancellation_cross() -> None:
    budget = ByteBudget(10)
    await budget.acquire(10)
    waiter = asyncio.create_task(budget.acquire(10))
    await asyncio.sleep(0)
    budget.release(10)  # granted ...
    waiter.cancel()  # ... and cancelled before it runs
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    await asyncio.wait_for(budget.acquire(10), 1)
    with pytest.raises(TimeoutError):  # given back once, not twice
        await asyncio.wait_for(budget.acquire(1), 0.01)
