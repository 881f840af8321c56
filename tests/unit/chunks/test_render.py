"""Pieces rendered ahead of their turn, and what is left when nobody wants them any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing

import pytest

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.decode_pool import ByteBudget, DecodePool
from imsd.chunks.render import PIECE_COST_BYTES, render
from imsd.contract import DataLoss
from imsd.formats.output import Framed, Output, Zeros, held_bytes
from imsd.formats.raw_writer import RawWriter
from imsd.formats.writer import FormatWriter, Piece
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import small_disk
from tests.unit.formats.disk_files import bytes_of

MIB = 1 << 20


class PiecesWriter(FormatWriter):
    """Writes what it is told, and counts what is running and what has run."""

    def __init__(self, pieces: Sequence[Callable[[], Sequence[Output]]], tasks: int = 0) -> None:
        self._pieces = pieces
        self._tasks = tasks
        self._lock = threading.Lock()
        self.measured = 0
        self.started = 0
        self.running = 0
        self.most_running = 0

    def measure(self) -> Iterator[Callable[[], None]]:
        for _ in range(self._tasks):
            yield self._measure_one

    def _measure_one(self) -> None:
        with self._lock:
            self.measured += 1

    def file_size_bytes(self) -> int:
        assert self.measured == self._tasks
        return 0

    def pieces(self) -> Iterator[Piece]:
        assert self.measured == self._tasks
        for piece in self._pieces:
            yield self._counted(piece)

    def _counted(self, piece: Piece) -> Piece:
        def run() -> Sequence[Output]:
            with self._lock:
                self.started += 1
                self.running += 1
                self.most_running = max(self.most_running, self.running)
            try:
                return piece()
            finally:
                with self._lock:
                    self.running -= 1

        return run


def slow(number: int, seconds: float = 0.0) -> Piece:
    def piece() -> Sequence[Output]:
        time.sleep(seconds)
        return [number.to_bytes(4, "big"), Zeros(number + 1)]

    return piece


def failing() -> Sequence[Output]:
    raise DataLoss("a byte is gone")


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    """A pool that is idle again when the test is over: no task, no budget taken."""
    pool = DecodePool(2, budget_bytes=64 * MIB)
    yield pool
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with asyncio.timeout(1), pool.budget.reserve(pool.budget.limit):
        pool.close()


async def test_pieces_come_in_order_however_long_each_takes(pool: DecodePool) -> None:
    writer = PiecesWriter([slow(n, 0.003 * (n % 3)) for n in range(40)], tasks=7)
    outputs = [output async for output in render(writer, pool)]
    assert outputs == [[n.to_bytes(4, "big"), Zeros(n + 1)] for n in range(40)]
    assert writer.measured == 7
    assert writer.most_running == 2


async def test_an_empty_file_has_no_pieces(pool: DecodePool) -> None:
    assert [output async for output in render(PiecesWriter([], tasks=1), pool)] == []


class NumberingWriter(PiecesWriter):
    """Numbers its pieces as they come, and says at the end how many there were."""

    def __init__(self, pieces: Sequence[Callable[[], Sequence[Output]]]) -> None:
        super().__init__(pieces)
        self.count = 0

    def in_turn(self, outputs: Sequence[Output]) -> Sequence[Output]:
        self.count += 1
        return [bytes([self.count]), *outputs]

    def closing(self) -> Sequence[Output]:
        return [b"of", bytes([self.count])]


async def test_pieces_are_placed_in_their_turn_and_the_file_is_closed(pool: DecodePool) -> None:
    writer = NumberingWriter([slow(n, 0.003 * (n % 3)) for n in range(20)])
    outputs = [output async for output in render(writer, pool)]
    assert outputs[:-1] == [[bytes([n + 1]), n.to_bytes(4, "big"), Zeros(n + 1)] for n in range(20)]
    assert outputs[-1] == [b"of", bytes([20])]


async def test_no_more_than_the_depth_is_rendered_ahead(pool: DecodePool) -> None:
    writer = PiecesWriter([slow(n) for n in range(40)])
    async with aclosing(render(writer, pool, depth=3)) as rendering:
        for asked in range(1, 6):
            await anext(rendering)
            await asyncio.sleep(0.02)
            assert writer.started <= asked + 2
    assert writer.started < 10


async def test_a_failure_comes_at_its_turn_and_ends_everything(pool: DecodePool) -> None:
    writer = PiecesWriter([slow(0, 0.01), slow(1), failing, slow(3, 0.05), slow(4, 0.05)])
    async with aclosing(render(writer, pool)) as rendering:
        assert await anext(rendering) == [bytes(4), Zeros(1)]
        assert await anext(rendering) == [b"\0\0\0\1", Zeros(2)]
        with pytest.raises(DataLoss, match="a byte is gone"):
            await anext(rendering)
        assert writer.running == 0


async def test_closing_early_waits_for_the_threads(pool: DecodePool) -> None:
    writer = PiecesWriter([slow(0), *(slow(n, 0.1) for n in range(1, 10))])
    async with aclosing(render(writer, pool)) as rendering:
        await anext(rendering)
        await asyncio.sleep(0.02)
        assert writer.running > 0
    assert writer.running == 0
    assert writer.started < 10


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_cancelling_waits_for_the_threads(pool: DecodePool, cancellations: int) -> None:
    writer = PiecesWriter([slow(n, 0.1) for n in range(10)])

    async def consume() -> None:
        async with aclosing(render(writer, pool)) as rendering:
            async for _ in rendering:
                pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.03)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer.running == 0


async def has_room_for(budget: ByteBudget, size: int) -> bool:
    try:
        async with asyncio.timeout(1), budget.reserve(size):
            return True
    except TimeoutError:
        return False


async def test_a_consumer_that_stops_keeps_only_what_was_rendered() -> None:
    pool = DecodePool(2, budget_bytes=4 * PIECE_COST_BYTES)
    big = [lambda: [bytes(MIB)]] * 10
    async with aclosing(render(PiecesWriter(big), pool, depth=4)) as rendering:
        await anext(rendering)
        await asyncio.sleep(0.05)
        assert await has_room_for(pool.budget, 4 * PIECE_COST_BYTES - 4 * MIB)
    assert await has_room_for(pool.budget, pool.budget.limit)
    pool.close()


@pytest.mark.parametrize("budget", [1 * MIB, 9 * MIB, 20 * MIB])
async def test_renderings_that_share_a_small_budget_all_end(budget: int) -> None:
    pool = DecodePool(2, budget_bytes=budget)

    async def total() -> int:
        size = 0
        async for outputs in render(PiecesWriter([lambda: [bytes(4 * MIB)]] * 6), pool):
            size += held_bytes(outputs)
            await asyncio.sleep(0)
        return size

    async with asyncio.timeout(20):
        assert await asyncio.gather(*(total() for _ in range(8))) == [24 * MIB] * 8
        async with pool.budget.reserve(budget):
            pool.close()


async def test_a_whole_disk_is_copied_in_order(pool: DecodePool) -> None:
    disk, store = small_disk(), MemoryStore()
    await disk.put(store)
    content = bytearray()
    async with open_chunk_reader(store, disk.manifest_id, pool) as reader:
        async for outputs in render(RawWriter(reader), pool):
            content += bytes_of(outputs)
    assert content == disk.content


async def test_a_disk_leaves_in_the_frames_it_is_stored_in(pool: DecodePool) -> None:
    disk, store = small_disk(), MemoryStore()
    await disk.put(store)
    outputs: list[Output] = []
    async with open_chunk_reader(store, disk.manifest_id, pool) as reader:
        async for piece in render(RawWriter(reader, may_frame=True), pool):
            outputs += piece
    assert bytes_of(outputs) == disk.content
    frames = [output for output in outputs if isinstance(output, Framed)]
    # All but the two that are stored plain, and the one that begins in one window and ends in another.
    assert len(frames) == len(disk.pieces) - 3


async def test_a_pack_that_is_gone_ends_a_copy(pool: DecodePool) -> None:
    disk = small_disk()
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    async with open_chunk_reader(store, disk.manifest_id, pool) as reader:
        await store.delete(disk.pack_blob(2))
        with pytest.raises(DataLoss, match=disk.pack_blob(2)):
            async for _ in render(RawWriter(reader), pool):
                pass
        assert reader.bytes_at_hand == 0


async def test_cancelling_while_the_store_hangs_leaves_nothing(pool: DecodePool) -> None:
    disk = small_disk()
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    async with open_chunk_reader(store, disk.manifest_id, pool) as reader:
        store.add(Fault(call=Call.READ, kind=FaultKind.HANG, prefix="packs/", times=None))
        task = asyncio.ensure_future(anext(render(RawWriter(reader), pool)))
        await asyncio.sleep(0.05)
        assert store.hanging > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.hanging == 0
        assert reader.bytes_at_hand == 0


async def test_readers_that_stop_leave_half_of_the_memory_to_others() -> None:
    pool = DecodePool(2, budget_bytes=4 * PIECE_COST_BYTES)
    big = [lambda: [bytes(4 * MIB)]] * 10
    async with AsyncExitStack() as stack:
        first = [
            asyncio.ensure_future(
                anext(await stack.enter_async_context(aclosing(render(PiecesWriter(big), pool))))
            )
            for _ in range(8)
        ]
        await asyncio.wait(first, timeout=0.3)
        assert await has_room_for(pool.budget, 2 * PIECE_COST_BYTES)
        for waiting in first:
            waiting.cancel()
        await asyncio.gather(*first, return_exceptions=True)
    assert await has_room_for(pool.budget, pool.budget.limit)
    assert await has_room_for(pool.output_budget, pool.output_budget.limit)
    pool.close()


async def test_while_others_wait_nothing_is_made_ahead() -> None:
    pool = DecodePool(2, budget_bytes=8 * PIECE_COST_BYTES)
    writer = PiecesWriter([slow(n) for n in range(20)])
    async with aclosing(render(writer, pool, depth=3)) as rendering:
        await anext(rendering)
        await asyncio.sleep(0.02)
        other = asyncio.create_task(pool.output_budget.acquire(pool.output_budget.limit))
        await asyncio.sleep(0)
        started = writer.started
        for _ in range(started - 1):
            await anext(rendering)
        assert writer.started == started
    await other
    pool.output_budget.release(pool.output_budget.limit)
    pool.close()
