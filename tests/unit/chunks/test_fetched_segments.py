"""The set of segments behind every fetched file."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks import fetched_segments
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.fetched_segments import SHORT_GAP_BYTES, SegmentSource, batches, merged
from imsd.contract import ByteRange, DataLoss, ImageRefused, Unavailable
from imsd.formats.source import NeedBytes

CONTENT = random.Random(0).randbytes(200_000)


class Loader(SegmentSource):
    """Loads from memory; ``loads`` are the calls, ``gate`` holds them back, ``failures`` are raised first."""

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(len(content))
        self.content = content
        self.loads: list[list[ByteRange]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    async def _load(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        self.loads.append(list(ranges))
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return [self.content[wanted.offset : wanted.end] for wanted in ranges]


async def test_bytes_that_are_not_at_hand_are_asked_for() -> None:
    source = Loader()
    with pytest.raises(NeedBytes) as caught:
        source.read(10, 20)
    assert caught.value.source is source
    assert caught.value.ranges == [ByteRange(10, 20)]


async def test_bytes_are_at_hand_until_the_last_block_is_left() -> None:
    source = Loader()
    wanted = [ByteRange(10, 20)]
    async with source.fetching(wanted):
        async with source.fetching(wanted):
            assert source.read(10, 20) == CONTENT[10:30]
        assert source.read(10, 20) == CONTENT[10:30]
        assert source.bytes_at_hand == 20
    with pytest.raises(NeedBytes):
        source.read(10, 20)
    assert source.bytes_at_hand == 0
    assert len(source.loads) == 1


async def test_a_read_inside_one_segment_copies_nothing() -> None:
    source = Loader()
    async with source.fetching([ByteRange(0, 1000)]):
        piece = source.read(100, 50)
        assert isinstance(piece, memoryview)
        assert piece.obj is source.read(0, 1000).obj  # type: ignore[union-attr]


async def test_a_read_across_segments_is_joined() -> None:
    source = Loader()
    async with source.fetching([ByteRange(0, 10_000)]), source.fetching([ByteRange(5_000, 20_000)]):
        assert source.read(4_000, 20_000) == CONTENT[4_000:24_000]
        assert source.loads[1] == [ByteRange(10_000, 15_000)]


async def test_neighbours_are_loaded_as_one_and_all_in_one_call() -> None:
    source = Loader()
    wanted = [ByteRange(100_000, 10), ByteRange(0, 10), ByteRange(4_106, 10), ByteRange(8_213, 10)]
    async with source.fetching(wanted):
        assert source.loads == [[ByteRange(0, 4_116), ByteRange(8_213, 10), ByteRange(100_000, 10)]]
        for each in wanted:
            assert source.read(each.offset, each.length) == CONTENT[each.offset : each.end]


async def test_two_blocks_at_once_load_a_range_once() -> None:
    source = Loader()
    source.gate.clear()

    async def fetch() -> bytes:
        async with source.fetching([ByteRange(50, 100)]):
            return bytes(source.read(50, 100))

    first, second = asyncio.create_task(fetch()), asyncio.create_task(fetch())
    await asyncio.sleep(0.01)
    source.gate.set()
    assert await first == await second == CONTENT[50:150]
    assert len(source.loads) == 1
    assert source.bytes_at_hand == 0


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_block_whose_partner_gave_up_loads_by_itself(is_cancelled: bool) -> None:
    source = Loader()
    source.gate.clear()

    async def fetch() -> bytes:
        async with source.fetching([ByteRange(50, 100)]):
            return bytes(source.read(50, 100))

    first = asyncio.create_task(fetch())
    await asyncio.sleep(0.01)
    second = asyncio.create_task(fetch())
    await asyncio.sleep(0.01)
    if is_cancelled:
        first.cancel()
    else:
        source.failures.append(Unavailable("not now"))
    source.gate.set()
    with pytest.raises(asyncio.CancelledError if is_cancelled else Unavailable):
        await first
    assert await second == CONTENT[50:150]
    assert source.bytes_at_hand == 0


async def test_a_failed_fetch_retains_nothing() -> None:
    source = Loader()
    source.failures.append(DataLoss("gone"))
    with pytest.raises(DataLoss, match="gone"):
        async with source.fetching([ByteRange(0, 10), ByteRange(90_000, 10)]):
            pytest.fail("the block was entered without its bytes")
    assert source.bytes_at_hand == 0
    with pytest.raises(NeedBytes):
        source.read(0, 10)


async def test_a_store_that_gives_too_little_is_lost_data() -> None:
    source = Loader(CONTENT)
    source.content = CONTENT[:100]
    with pytest.raises(DataLoss):
        async with source.fetching([ByteRange(50, 100)]):
            pytest.fail("the block was entered without its bytes")
    assert source.bytes_at_hand == 0


async def test_require_asks_for_everything_when_something_is_missing() -> None:
    source = Loader()
    wanted = [ByteRange(0, 10), ByteRange(90_000, 10)]
    async with source.fetching(wanted[:1]):
        with pytest.raises(NeedBytes) as caught:
            source.require(wanted)
        assert caught.value.ranges == wanted
    async with source.fetching(caught.value.ranges):
        source.require(wanted)
        assert source.read(90_000, 10) == CONTENT[90_000:90_010]


async def test_ranges_outside_the_file_are_left_to_read_to_refuse() -> None:
    source = Loader()
    size = len(CONTENT)
    with pytest.raises(NeedBytes) as caught:
        source.require([ByteRange(size - 10, 1 << 60), ByteRange(size, 5), ByteRange(1 << 62, 5)])
    assert caught.value.ranges == [ByteRange(size - 10, 10)]
    source.require([ByteRange(size, 5), ByteRange(-20, 10)])
    async with source.fetching([ByteRange(size - 10, 1 << 60)]):
        assert source.read(size - 10, 10) == CONTENT[-10:]
        with pytest.raises(ImageRefused):
            source.read(size - 10, 11)


async def test_a_large_fetch_is_split_and_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched_segments, "MAX_LOAD_BYTES", 1000)
    source = Loader()
    async with source.fetching([ByteRange(10, 2500), ByteRange(50_000, 300)]):
        assert source.loads == [
            [ByteRange(10, 1000)],
            [ByteRange(1010, 1000)],
            [ByteRange(2010, 500), ByteRange(50_000, 300)],
        ]
        assert source.read(10, 2500) == CONTENT[10:2510]
        assert source.read(50_000, 300) == CONTENT[50_000:50_300]


async def test_many_threads_read_while_the_loop_fetches_and_drops() -> None:
    source = Loader()
    pool = DecodePool(4)
    chance = random.Random(7)
    places = [(chance.randrange(190_000), chance.randrange(1, 9_000)) for _ in range(300)]

    def read(offset: int, length: int) -> bytes:
        source.require([ByteRange(offset, length)])
        return bytes(source.read(offset, length))

    try:
        results = await asyncio.gather(*(pool.run(read, at, min(n, 200_000 - at)) for at, n in places))
    finally:
        pool.close()
    assert results == [CONTENT[at : at + n] for at, n in places]
    assert source.bytes_at_hand == 0


RANGES = st.lists(st.builds(ByteRange, st.integers(0, 5_000), st.integers(1, 3_000)), min_size=1, max_size=12)

FAR_RANGE = st.builds(ByteRange, st.integers(0, 60_000), st.integers(1, 9_000))


@given(st.lists(FAR_RANGE, min_size=1, max_size=12), st.integers(0, 9_000))
def test_merged_ranges_cover_the_same_bytes_in_order(ranges: list[ByteRange], gap: int) -> None:
    result = merged(ranges, gap)
    for earlier, later in pairwise(result):
        assert later.offset > earlier.end
    wanted_bytes = len({byte for each in ranges for byte in range(each.offset, each.end)})
    short = SHORT_GAP_BYTES * len(ranges)
    assert wanted_bytes <= sum(each.length for each in result) <= 2 * wanted_bytes + short
    for wanted in ranges:
        assert any(each.offset <= wanted.offset and wanted.end <= each.end for each in result)
    cut = [each for batch in batches(result) for each in batch]
    assert sum(each.length for each in cut) == sum(each.length for each in result)


@given(st.lists(RANGES, min_size=1, max_size=5))
async def test_whatever_is_fetched_at_once_reads_as_the_file(fetches: list[list[ByteRange]]) -> None:
    source = Loader(CONTENT[:8_000])

    async def check(ranges: list[ByteRange]) -> None:
        async with source.fetching(ranges):
            await asyncio.sleep(0)
            for wanted in ranges:
                assert source.read(wanted.offset, wanted.length) == CONTENT[wanted.offset : wanted.end]

    await asyncio.gather(*(check(ranges) for ranges in fetches))
    loaded = [each for load in source.loads for each in load]
    assert sum(each.length for each in loaded) <= 8_000 * len(fetches)
    assert source.bytes_at_hand == 0


def test_gaps_are_read_over_where_they_are_short_and_few() -> None:
    near = [ByteRange(0, 100), ByteRange(150, 100), ByteRange(300, 10)]
    assert merged(near, 50) == [ByteRange(0, 310)]
    assert merged(near, 49) == near
    scattered = [ByteRange(n * 64_000, 400) for n in range(4)]
    assert merged(scattered, 64 << 10) == scattered
