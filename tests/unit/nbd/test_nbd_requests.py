"""Requests of one client and of many: what is read, what is refused, and whom it disturbs."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator

import pytest

from imsd.formats.source import Extent
from imsd.nbd import channel
from imsd.nbd.connection import MAX_REQUESTS
from tests.unit.nbd.block_world import BlockWorld, cipher, mixed_disk, started
from tests.unit.nbd.raw_client import (
    BLOCK_STATUS,
    CACHE,
    DF,
    DISC,
    EINVAL,
    EOVERFLOW,
    EPERM,
    FLUSH,
    READ,
    REQ_ONE,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    RawClient,
    connected,
    reading,
    request,
)

MIB = 1 << 20
DISK = mixed_disk()
CONTENT = DISK.content()
SIZE = len(CONTENT)


@pytest.fixture
async def client(world: BlockWorld) -> AsyncIterator[RawClient]:
    await world.attach(DISK)
    async with reading(world.socket()) as client:
        yield client


def places(seed: int, count: int, longest: int = 3 * MIB) -> list[tuple[int, int]]:
    generator = random.Random(seed)
    starts = [generator.randrange(SIZE) for _ in range(count)]
    return [(start, min(SIZE - start, generator.randrange(1, longest))) for start in starts]


async def test_what_is_read_is_what_was_stored(client: RawClient) -> None:
    assert client.size_bytes == SIZE
    for start, length in [(0, SIZE), (SIZE - 1, 1), (0, 1), (3 * MIB - 1, 2), *places(1, 40)]:
        assert await client.read(start, length) == CONTENT[start : start + length]


async def test_an_encrypted_disk_is_read_as_any_other(world: BlockWorld) -> None:
    await world.attach(DISK, cipher=cipher())
    async with reading(world.socket()) as client:
        assert await client.read(0, SIZE) == CONTENT
    await world.fetched.written()
    files = world.cache_files()
    assert files
    assert not any(CONTENT[start : start + 64] in file for file in files for start in (0, 6 * MIB, 8 * MIB))


async def test_holes_are_told_as_holes(client: RawClient) -> None:
    answer = await client.ask(READ, 2 * MIB, 3 * MIB)
    assert answer.holes
    assert sum(length for _, length in answer.holes) == 3 * MIB
    assert not any(answer.data)


async def test_requests_under_way_together_are_all_answered(client: RawClient) -> None:
    asked = {
        client.send(READ, start, length): (READ, start, length) for start, length in places(2, 400, 100_000)
    }
    for cookie, answer in (await client.answers(asked)).items():
        _, start, length = asked[cookie]
        assert (answer.error, bytes(answer.data)) == (0, CONTENT[start : start + length])


async def test_an_old_client_gets_simple_replies(world: BlockWorld) -> None:
    await world.attach(DISK)
    async with connected(world.socket()) as client:
        await client.go(structured=False)
        for start, length in [(0, SIZE), *places(3, 20)]:
            assert await client.read(start, length) == CONTENT[start : start + length]
        assert (await client.ask(READ, SIZE, 1)).error == EINVAL
        assert (await client.ask(BLOCK_STATUS, 0, 4096)).error == EINVAL
        assert await client.read(0, 512) == CONTENT[:512]


async def test_an_unfragmented_read_comes_in_one_piece_or_not_at_all(client: RawClient) -> None:
    for start, length in [(0, 65536), (2 * MIB - 1000, 65536), (5 * MIB - 4096, 500_000)]:
        answer = await client.ask(READ, start, length, DF)
        assert (answer.error, answer.pieces, answer.holes) == (0, 1, [])
        assert answer.data == CONTENT[start : start + length]
    assert (await client.ask(READ, 0, MIB, DF)).error == EOVERFLOW


async def test_the_allocation_is_that_of_the_disk(client: RawClient) -> None:
    told, position = [], 0
    while position < SIZE:
        for length, flags in (await client.ask(BLOCK_STATUS, position, SIZE - position)).extents:
            told.append((position, length, flags))
            position += length
    assert position == SIZE
    for start, length, flags in told:
        assert flags in (0, 3)
        assert flags == 0 or not any(CONTENT[start : start + length])
    assert sum(length for _, length, flags in told if flags == 3) > SIZE // 3
    first = await client.ask(BLOCK_STATUS, 0, SIZE, REQ_ONE)
    assert first.extents == [(told[0][1], 0)]
    inside = await client.ask(BLOCK_STATUS, 1000, 3000)
    assert inside.extents == [(3000, 0)]


async def test_block_status_needs_a_chosen_context(world: BlockWorld) -> None:
    await world.attach(DISK)
    async with connected(world.socket()) as client:
        await client.go(allocation=False)
        assert (await client.ask(BLOCK_STATUS, 0, 4096)).error == EINVAL


@pytest.mark.parametrize("kind", [READ, BLOCK_STATUS, CACHE])
@pytest.mark.parametrize(
    ("start", "length"),
    [(SIZE, 1), (SIZE - 1, 2), (0, 0), (1 << 63, 512), ((1 << 64) - 1, 2), (0, 0xFFFFFFFF), (SIZE + 1, 0)],
)
async def test_no_request_reaches_beyond_the_disk(
    client: RawClient, kind: int, start: int, length: int
) -> None:
    assert (await client.ask(kind, start, length)).error == EINVAL
    assert await client.read(0, 512) == CONTENT[:512]


async def test_a_read_has_a_longest_length(world: BlockWorld) -> None:
    await world.attach(mixed_disk(40 * MIB))
    async with reading(world.socket()) as client:
        assert (await client.ask(READ, 0, (32 * MIB) + 1)).error == EOVERFLOW
        assert len(await client.read(0, 32 * MIB)) == 32 * MIB


async def test_what_would_change_the_disk_is_refused(client: RawClient) -> None:
    assert (await client.ask(WRITE, 0, 100_000, content=b"w" * 100_000)).error == EPERM
    assert (await client.ask(WRITE, 0, 0)).error == EPERM
    assert (await client.ask(TRIM, 0, 4096)).error == EPERM
    assert (await client.ask(WRITE_ZEROES, 0, 4096)).error == EPERM
    assert await client.read(0, 4096) == CONTENT[:4096]


async def test_a_write_of_gigabytes_ends_the_connection(client: RawClient) -> None:
    client.send(WRITE, 0, 0xFFFFFFFF)
    assert await client.is_cut_off()


async def test_what_is_not_known_is_refused(client: RawClient) -> None:
    assert (await client.ask(77, 0, 512)).error == EINVAL
    assert (await client.ask(READ, 0, 512, 1 << 15)).error == EINVAL
    assert (await client.ask(BLOCK_STATUS, 0, 512, DF)).error == EINVAL
    assert (await client.ask(FLUSH)).error == 0


async def test_a_request_that_is_none_ends_the_connection(client: RawClient) -> None:
    client.writer.write(bytes(28))
    assert await client.is_cut_off()


async def test_half_a_request_waits_for_the_other_half(client: RawClient) -> None:
    whole = request(READ, 5, 0, 512)
    client.writer.write(whole[:13])
    await client.writer.drain()
    await asyncio.sleep(0.05)
    client.writer.write(whole[13:])
    assert (await client.answers({5: (READ, 0, 512)}))[5].data == CONTENT[:512]


async def test_a_client_that_leaves_gets_its_answers_first(client: RawClient) -> None:
    asked = {client.send(READ, start, length): (READ, start, length) for start, length in places(4, 30, MIB)}
    client.send(DISC)
    for cookie, answer in (await client.answers(asked)).items():
        _, start, length = asked[cookie]
        assert answer.data == CONTENT[start : start + length]
    assert await client.is_cut_off()


async def test_an_announcement_brings_bytes_to_this_machine(world: BlockWorld, client: RawClient) -> None:
    assert (await client.ask(CACHE, 0, SIZE)).error == 0
    async with asyncio.timeout(30):
        while (prefetcher := world.attachments.get("a1").prefetcher) and not prefetcher.is_idle:
            await asyncio.sleep(0.01)
    await world.fetched.written()
    before = len(world.store.reads)
    assert await client.read(0, SIZE) == CONTENT
    assert len(world.store.reads) == before


async def test_a_client_that_does_not_read_disturbs_nobody(world: BlockWorld) -> None:
    await world.attach(DISK)
    deaf = [await asyncio.open_unix_connection(world.socket()) for _ in range(8)]
    for reader, writer in deaf:
        client = RawClient(reader, writer)
        await client.go()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(4 * MAX_REQUESTS):
            client.send(READ, 0, 8 * MIB)
    async with reading(world.socket()) as client:
        for start, length in places(5, 50):
            assert await client.read(start, length) == CONTENT[start : start + length]
    assert world.disks.memory.chunks.used_bytes <= world.disks.memory.chunks.limit
    for _, writer in deaf:
        writer.transport.abort()


async def test_a_flood_of_refusals_that_nobody_reads_is_bounded(world: BlockWorld) -> None:
    await world.attach(DISK)
    reader, writer = await asyncio.open_unix_connection(world.socket())
    client = RawClient(reader, writer)
    await client.go()
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(100_000):
        client.send(99)
    async with reading(world.socket()) as other:
        assert await other.read(0, 4096) == CONTENT[:4096]
    # Most of the flood is still in the hands of who made it.
    assert writer.transport.get_write_buffer_size() > 1 * MIB
    writer.transport.abort()


async def test_allocations_that_nobody_reads_are_not_piled_up(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is 32 KiB long, and a client may have asked for 128 of them."""
    monkeypatch.setattr(channel, "SEND_BUFFER_BYTES", 64 << 10)  # some systems would take them all
    attachment = await world.attach(DISK)
    asked = 0

    async def extents(start: int, length: int) -> list[Extent]:
        nonlocal asked
        asked += 1
        return [Extent(number * 512, 512, is_zero=bool(number % 2)) for number in range(4096)]

    monkeypatch.setattr(type(attachment.disk), "extents", lambda _, start, length: extents(start, length))
    reader, writer = await asyncio.open_unix_connection(world.socket())
    client = RawClient(reader, writer)
    await client.go()
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    cookies = [client.send(BLOCK_STATUS, 0, SIZE) for _ in range(MAX_REQUESTS)]
    await asyncio.sleep(0.5)
    assert 0 < asked < MAX_REQUESTS // 2  # the buffers of the system take some
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    answers = await client.answers(dict.fromkeys(cookies, (BLOCK_STATUS, 0, SIZE)))
    assert all(len(answer.extents) == 4096 for answer in answers.values())
    writer.close()


async def test_more_clients_than_there_are_places_are_turned_away(unstarted: BlockWorld) -> None:
    unstarted.max_clients = 20
    async with started(unstarted) as world:
        await world.attach(DISK)
        await world.attach(DISK, "a2")
        flood = [await asyncio.open_unix_connection(world.socket()) for _ in range(40)]
        await asyncio.sleep(0.1)
        assert world.attachments.get("a1").clients == 16
        async with reading(world.socket("a2")) as client:  # places that one disk leaves to others
            assert await client.read(0, 512) == CONTENT[:512]
        for _, writer in flood:
            writer.close()
        async with asyncio.timeout(30):
            while world.attachments.get("a1").clients:
                await asyncio.sleep(0.01)
        async with reading(world.socket()) as client:
            assert await client.read(0, 512) == CONTENT[:512]


async def test_thousands_of_connections_come_and_go(world: BlockWorld) -> None:
    await world.attach(DISK)
    for _ in range(40):
        crowd = [await asyncio.open_unix_connection(world.socket()) for _ in range(50)]
        for number, (_, writer) in enumerate(crowd):
            writer.write(struct.pack(">I", 3) if number % 2 else b"")
            writer.close()
    async with asyncio.timeout(30):
        while world.attachments.get("a1").clients:
            await asyncio.sleep(0.01)
    async with reading(world.socket()) as client:
        assert await client.read(0, 512) == CONTENT[:512]
