"""Spans cover a disk exactly; windows are few, zeros between them are whole leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.buffers import (
    HEADROOM_BYTES,
    MAX_SPARE_WHEN_IDLE,
    WINDOW_BYTES,
    WINDOW_COST_BYTES,
    Turns,
    window_buffers,
)
from imsd.chunks.decode_pool import ByteBudget, DecodePool
from imsd.chunks.window_plan import MAX_LOOK_BYTES, MIN_LOOK_BYTES, Span, next_look, plan_ahead, plan_spans
from imsd.contract import ImageRefused
from imsd.formats.source import Extent
from tests.unit.chunks.ingest_world import GIB, KIB, MIB, SparseDisk

LEAF = 64 * KIB


class Outline(SparseDisk):
    """A disk of which only the extents matter."""

    def __init__(self, size_bytes: int, data: Sequence[tuple[int, int]]) -> None:
        super().__init__(size_bytes, {})
        self.data = data
        self.looks: list[tuple[int, int]] = []

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        self.looks.append((start, length))
        end, position, found = start + length, start, []
        for first, last in self.data:
            first, last = max(first, position), min(last, end)
            if first < last:
                if position < first:
                    found.append(Extent(position, first - position, True))
                found.append(Extent(first, last - first, False))
                position = last
        if position < end:
            found.append(Extent(position, end - position, True))
        return found


@st.composite
def outlines(draw: st.DrawFn) -> tuple[Outline, int]:
    data, position = [], 0
    lengths = st.sampled_from([512, 4096, LEAF - 512, LEAF, LEAF + 512, MIB, 4 * MIB, 9 * MIB])
    for _ in range(draw(st.integers(0, 12))):
        first = position + draw(st.sampled_from([0, 512, LEAF, 100 * KIB, MIB, 5 * MIB, 80 * MIB]))
        position = first + draw(lengths)
        data.append((first, position))
    size = position + draw(st.sampled_from([0, 512, LEAF, 30 * MIB + 512]))
    return Outline(size, data), draw(st.integers(0, max(0, size - 1) // 4096)) * 4096


def check(disk: Outline, start: int, end: int, spans: Sequence[Span]) -> None:
    position = start
    for span in spans:
        assert span.start == position
        assert span.length > 0
        position = span.end
        if span.is_zero:
            assert span.start % LEAF == span.length % LEAF == 0
            assert not any(first < span.end and span.start < last for first, last in disk.data)
        else:
            assert span.length <= WINDOW_BYTES
            assert span.end % LEAF == 0 or span.end == end
    assert position == end


@given(outlines())
def test_spans_cover_the_range_and_skip_only_zeros(case: tuple[Outline, int]) -> None:
    disk, start = case
    length = disk.size_bytes - start
    if length:
        spans = plan_spans(disk, start, length)
        check(disk, start, disk.size_bytes, spans)
        data = sum(min(last, disk.size_bytes) - first for first, last in disk.data if last > start)
        assert sum(not span.is_zero for span in spans) <= 2 + 2 * len(disk.data) + data // (
            WINDOW_BYTES - LEAF
        )


@given(outlines())
def test_planning_ahead_covers_the_disk(case: tuple[Outline, int]) -> None:
    disk, start = case

    async def plan() -> list[Span]:
        pool = DecodePool(1)
        spans: list[Span] = []
        async with aclosing(plan_ahead(pool, disk, start, disk.size_bytes)) as ahead:
            async for part in ahead:
                spans += part
        pool.close()
        return spans

    spans = asyncio.run(plan())
    assert sum(span.length for span in spans) == disk.size_bytes - start
    check(disk, start, disk.size_bytes, spans)


def test_small_pieces_share_a_window() -> None:
    disk = Outline(64 * MIB, [(at, at + 4096) for at in range(0, 64 * MIB, 256 * KIB)])
    spans = plan_spans(disk, 0, disk.size_bytes)
    assert sum(not span.is_zero for span in spans) == 16


def test_a_window_is_no_longer_than_its_data() -> None:
    disk = Outline(GIB, [(100 * MIB + 512, 100 * MIB + 1024)])
    assert plan_spans(disk, 0, GIB) == [
        Span(0, 100 * MIB, True),
        Span(100 * MIB, LEAF, False),
        Span(100 * MIB + LEAF, GIB - 100 * MIB - LEAF, True),
    ]


def test_looks_grow_over_zeros_only_and_not_for_ever() -> None:
    zero, window = Span(0, LEAF, True), Span(0, LEAF, False)
    assert next_look(MIN_LOOK_BYTES, [zero]) == 2 * MIN_LOOK_BYTES
    assert next_look(MAX_LOOK_BYTES, [zero]) == MAX_LOOK_BYTES
    assert next_look(MAX_LOOK_BYTES, [zero, window]) == MIN_LOOK_BYTES


async def test_a_plan_that_is_not_used_up_leaves_no_task(pool: DecodePool) -> None:
    disk = Outline(GIB, [(0, GIB)])
    async with aclosing(plan_ahead(pool, disk, 0, disk.size_bytes)) as ahead:
        assert len(await anext(ahead)) == MIN_LOOK_BYTES // WINDOW_BYTES
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_of_the_part_planned_ahead_surfaces(pool: DecodePool) -> None:
    class Torn(Outline):
        def extents(self, start: int, length: int) -> Sequence[Extent]:
            if start:
                raise ImageRefused("a table is damaged")
            return super().extents(start, length)

    async with aclosing(plan_ahead(pool, Torn(GIB, [(0, GIB)]), 0, GIB)) as ahead:
        assert await anext(ahead)
        with pytest.raises(ImageRefused):
            await anext(ahead)


async def test_windows_are_drawn_from_the_budget_and_reused() -> None:
    budget = ByteBudget(2 * WINDOW_COST_BYTES)
    buffers = window_buffers(budget)
    assert window_buffers(budget) is buffers
    first, second = await buffers.take(0), await buffers.take(4096)
    third = asyncio.create_task(buffers.take(8192))
    await asyncio.sleep(0)
    assert buffers.waiting == 1
    assert not third.done()
    first.append(memoryview(b"left over"))
    buffers.give_back(first)
    window = await third
    assert window is first
    assert (window.start, window.length, buffers.waiting) == (8192, 0, 0)
    buffers.give_back(window)
    buffers.give_back(second)
    assert MAX_SPARE_WHEN_IDLE == 2
    await budget.acquire(2 * WINDOW_COST_BYTES)


async def test_a_window_holds_what_was_carried_right_before_its_content() -> None:
    window = await window_buffers(ByteBudget(WINDOW_COST_BYTES)).take(0)
    window.memory[HEADROOM_BYTES : HEADROOM_BYTES + 8192] = b"\xee" * 8192  # left over
    assert window.append(memoryview(b"content")) == 7
    assert bytes(window.whole_blocks()) == b"content".ljust(4096, b"\0")
    assert bytes(window.prepend(b"carry ")[:13]) == b"carry content"
    assert window.append(memoryview(bytes(WINDOW_BYTES))) == WINDOW_BYTES - 7
    assert window.room == 0


async def test_turns_come_in_the_order_of_their_numbers() -> None:
    turns, order = Turns(), list[int]()

    async def pass_through(number: int) -> None:
        await turns.reach(number)
        order.append(number)
        turns.leave()

    await asyncio.gather(*(pass_through(number) for number in (3, 1, 0, 2)))
    assert order == [0, 1, 2, 3]
