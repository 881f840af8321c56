"""Reading a disk in pages, within a budget."""

from __future__ import annotations

import random

import pytest

from imsd.guest.budget import (
    MAX_FETCH_BYTES,
    MAX_KEPT_PAGES,
    PAGE_BYTES,
    Budget,
    BudgetExhausted,
    PagedVolume,
)

CONTENT = random.Random(7).randbytes(3 * MAX_FETCH_BYTES + 12345)


class Disk:
    """A disk that notes what is fetched."""

    def __init__(self, content: bytes = CONTENT, budget: Budget | None = None) -> None:
        self.fetched: list[tuple[int, int]] = []
        self.content = content
        self.volume = PagedVolume(len(content), self.fetch, budget or Budget())

    def fetch(self, offset: int, length: int) -> bytes:
        self.fetched.append((offset, length))
        return self.content[offset : offset + length]


def test_small_reads_cost_one_fetch_a_page() -> None:
    disk = Disk()
    found = b"".join(disk.volume.read(offset, 100) for offset in range(0, PAGE_BYTES - 100, 100))
    assert found == CONTENT[: len(found)]
    assert disk.fetched == [(0, PAGE_BYTES)]


def test_a_long_read_is_fetched_in_few_calls() -> None:
    disk = Disk()
    assert disk.volume.read(10, 2 * MAX_FETCH_BYTES) == CONTENT[10 : 10 + 2 * MAX_FETCH_BYTES]
    assert [length for _, length in disk.fetched] == [MAX_FETCH_BYTES, MAX_FETCH_BYTES, PAGE_BYTES]


def test_the_last_page_may_be_short() -> None:
    disk = Disk()
    assert disk.volume.read(len(CONTENT) - 5, 5) == CONTENT[-5:]
    assert disk.volume.read(0, len(CONTENT)) == CONTENT


def test_random_reads_give_the_bytes_of_the_disk() -> None:
    disk, chance = Disk(), random.Random(3)
    for _ in range(300):
        offset = chance.randrange(len(CONTENT))
        length = min(chance.choice([1, 500, PAGE_BYTES, 5 * PAGE_BYTES]), len(CONTENT) - offset)
        assert disk.volume.read(offset, length) == CONTENT[offset : offset + length]


def test_so_many_pages_are_kept_and_no_more() -> None:
    content = bytes(PAGE_BYTES) * (MAX_KEPT_PAGES + 10)
    disk = Disk(content, Budget(read_bytes=1 << 40))
    for number in range(MAX_KEPT_PAGES + 1):
        disk.volume.read(number * PAGE_BYTES, 1)
    fetches = len(disk.fetched)
    disk.volume.read(MAX_KEPT_PAGES * PAGE_BYTES, 1)
    assert len(disk.fetched) == fetches
    disk.volume.read(0, 1)
    assert len(disk.fetched) == fetches + 1


@pytest.mark.parametrize("budget", [Budget(reads=2), Budget(read_bytes=2 * PAGE_BYTES)])
def test_the_budget_ends_reading_before_it_is_exceeded(budget: Budget) -> None:
    disk = Disk(budget=budget)
    disk.volume.read(0, 1)
    disk.volume.read(PAGE_BYTES, 1)
    disk.volume.read(0, 100)
    with pytest.raises(BudgetExhausted, match="more than"):
        disk.volume.read(2 * PAGE_BYTES, 1)
    assert len(disk.fetched) == 2


def test_nothing_that_steps_over_errors_steps_over_the_end_of_a_budget() -> None:
    assert not issubclass(BudgetExhausted, Exception)
