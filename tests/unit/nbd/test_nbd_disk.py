"""A disk that several clients read: fetched once, and told apart from one that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from imsd.chunks.index import pack_blob
from imsd.chunks.layout import MIN_CHUNK_BYTES
from imsd.contract import BlobId, ByteRange, DataLoss
from tests.unit.chunks.ingest_world import MIB
from tests.unit.chunks.stored_disk import get, put
from tests.unit.nbd.block_world import BlockWorld, cipher, mixed_disk, started
from tests.unit.nbd.raw_client import BLOCK_STATUS, CACHE, EIO, READ, connected, reading

DISK = mixed_disk()
CONTENT = DISK.content()
SIZE = len(CONTENT)


async def read_through(path: str, step: int = 256 << 10) -> bytes:
    async with reading(path) as client:
        return b"".join([await client.read(start, min(step, SIZE - start)) for start in range(0, SIZE, step)])


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_sixteen_clients_fetch_each_chunk_once(unstarted: BlockWorld, is_encrypted: bool) -> None:
    unstarted.memory_bytes = 4 * MIB  # far less than the disk: what is fetched again comes from the cache
    async with started(unstarted) as world:
        await world.attach(DISK, cipher=cipher() if is_encrypted else None)
        contents = await asyncio.gather(*(read_through(world.socket()) for _ in range(16)))
        assert all(content == CONTENT for content in contents)
        assert world.store.most_reads_of_a_byte() == 1


async def test_attachments_of_one_image_fetch_it_once(world: BlockWorld) -> None:
    manifest_id = await world.put(DISK)
    for number in range(4):
        await world.attach_manifest(manifest_id, SIZE, f"a{number}")
    contents = await asyncio.gather(*(read_through(world.socket(f"a{number}")) for number in range(4)))
    assert all(content == CONTENT for content in contents)
    assert world.store.most_reads_of_a_byte() == 1


async def test_images_that_share_packs_fetch_them_once(world: BlockWorld) -> None:
    manifests = [await world.put(DISK), await world.put(DISK)]
    for number, manifest_id in enumerate(manifests):
        await world.attach_manifest(manifest_id, SIZE, f"a{number}")
    await asyncio.gather(*(read_through(world.socket(f"a{number}")) for number in range(2)))
    assert world.store.most_reads_of_a_byte() == 1


async def test_without_a_cache_on_the_disk_all_is_read_all_the_same(unstarted: BlockWorld) -> None:
    unstarted.cache_bytes = 0
    async with started(unstarted) as world:
        await world.attach(DISK)
        contents = await asyncio.gather(*(read_through(world.socket()) for _ in range(4)))
        assert all(content == CONTENT for content in contents)


async def test_a_read_waits_for_a_store_that_comes_back(world: BlockWorld) -> None:
    await world.attach(DISK)
    async with reading(world.socket()) as client:
        world.store.is_down = True
        cookie = client.send(READ, 0, MIB)
        await asyncio.sleep(0.3)
        world.store.is_down = False
        answer = (await client.answers({cookie: (READ, 0, MIB)}))[cookie]
        assert (answer.error, bytes(answer.data)) == (0, CONTENT[:MIB])


async def test_a_read_of_a_store_that_stays_away_fails_and_later_ones_do_not(unstarted: BlockWorld) -> None:
    unstarted.store_wait_seconds = 0.3
    async with started(unstarted) as world:
        attachment = await world.attach(DISK)
        async with reading(world.socket()) as client:
            world.store.is_down = True
            answer = await client.ask(READ, 0, 4 * MIB)
            assert answer.error == EIO
            assert "out of reach" in answer.message
            assert (await client.ask(BLOCK_STATUS, 0, SIZE)).error in (0, EIO)
            assert attachment.errors >= 1
            assert "out of reach" in attachment.disk.stats.last_error
            world.store.is_down = False
            assert await client.read(0, 4 * MIB) == CONTENT[: 4 * MIB]
        async with connected(world.socket()) as old:
            await old.go(structured=False)
            assert await old.read(0, SIZE) == CONTENT


async def test_a_store_that_hangs_stops_no_other(world: BlockWorld) -> None:
    await world.attach(DISK, "slow", store="other")
    await world.attach(DISK, "fast")
    world.stores["other"].gate.clear()
    async with reading(world.socket("slow")) as slow, reading(world.socket("fast")) as fast:
        for start in range(0, SIZE, MIB):
            slow.send(READ, start, MIB)
        await asyncio.sleep(0.1)
        assert await fast.read(0, SIZE) == CONTENT
    world.stores["other"].gate.set()


async def test_damage_is_an_error_where_it_is_and_nowhere_else(world: BlockWorld) -> None:
    manifest_id = await world.put(DISK)
    (pack_id,) = world.worlds["main"].index.packs
    blob = pack_blob(pack_id)
    content = bytearray(await get(world.store.inner, blob))
    content[100] ^= 1
    await put(world.store.inner, blob, bytes(content))
    attachment = await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        answer = await client.ask(READ, 0, 4096)
        assert answer.error == EIO
        assert "damaged" in answer.message
        assert await client.read(8 * MIB, MIB) == CONTENT[8 * MIB : 9 * MIB]
        whole = await client.ask(READ, 0, 16 * MIB)
        assert whole.error == EIO
    assert attachment.errors == 2
    async with connected(world.socket()) as old:
        await old.go(structured=False)
        assert (await old.ask(READ, 0, 4096)).error == EIO
        assert await old.read(8 * MIB, MIB) == CONTENT[8 * MIB : 9 * MIB]


async def test_a_client_that_reads_in_order_finds_the_next_bytes_loaded(unstarted: BlockWorld) -> None:
    unstarted.cache_bytes = 0
    async with started(unstarted) as world:
        attachment = await world.attach(DISK)
        start = 8 * MIB
        async with reading(world.socket()) as client:
            for at in range(start, start + MIB, 64 << 10):
                await client.read(at, 64 << 10)
            async with asyncio.timeout(30):
                await attachment.disk.quiet()
            before = len(world.store.reads)
            await client.read(start + MIB, 64 << 10)
            assert len(world.store.reads) == before


async def test_reading_ahead_gives_way_to_who_waits_for_memory_when_the_places_are_known(
    world: BlockWorld,
) -> None:
    disk = (await world.attach(DISK)).disk
    world.store.reads.clear()
    disk.load_ahead(0, MIB)
    budget = world.pool.budget
    await budget.acquire(budget.limit)
    other = asyncio.ensure_future(budget.acquire(budget.limit))
    async with asyncio.timeout(10):
        await disk.quiet()
    budget.release(budget.limit)
    await other
    budget.release(budget.limit)
    await disk.quiet()
    assert (disk.stats.memory_misses, world.store.reads) == (0, [])


async def test_announcements_are_not_piled_up_while_the_store_hangs(unstarted: BlockWorld) -> None:
    """Each is answered at once: nothing else bounds how many a client sends."""
    unstarted.cache_bytes = 0
    async with started(unstarted) as world:
        disk = (await world.attach(DISK)).disk
        world.store.gate.clear()
        async with reading(world.socket()) as client:
            before = len(asyncio.all_tasks())
            for number in range(600):
                assert (await client.ask(CACHE, number % 24 * MIB, MIB)).error == 0
            assert len(asyncio.all_tasks()) == before + 1  # one part of the disk is looked up
        world.store.gate.set()
        await disk.quiet()
        assert 0 < disk.stats.memory_misses <= MIB // MIN_CHUNK_BYTES + 1


async def test_a_damaged_chunk_takes_no_neighbour_with_it(world: BlockWorld) -> None:
    """Neighbours are loaded in one go, for whoever wants one of them."""
    manifest_id = await world.put(DISK)
    (pack_id,) = world.worlds["main"].index.packs
    content = bytearray(await get(world.store.inner, pack_blob(pack_id)))
    content[100] ^= 1
    await put(world.store.inner, pack_blob(pack_id), bytes(content))
    attachment = await world.attach_manifest(manifest_id, SIZE)
    await attachment.disk.read(6 * MIB, 4096)  # where chunks lie is known now
    world.store.gate.clear()
    both = attachment.disk.lacking(0, MIB)
    good = asyncio.ensure_future(attachment.disk.read(800 << 10, 4096))
    await asyncio.sleep(0)
    world.store.gate.set()
    assert b"".join(bytes(piece) for piece in await good) == CONTENT[800 << 10 :][:4096]
    await asyncio.wait(both)
    with pytest.raises(DataLoss):
        await attachment.disk.read(0, 4096)
    assert attachment.disk.at_hand(800 << 10, 4096)


@pytest.mark.parametrize("folder_of_blobs", ["packs/", "manifests/"])
async def test_bytes_that_were_altered_on_their_way_are_fetched_again(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch, folder_of_blobs: str
) -> None:
    """They are in the cache on the disk, which would give them for ever."""
    manifest_id = await world.put(DISK)
    read = world.store.read
    altered: list[BlobId] = []

    async def altering(blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        pieces = await read(blob, ranges)
        if altered or not blob.startswith(folder_of_blobs):
            return pieces
        altered.append(blob)
        return [piece[:-1] + bytes([piece[-1] ^ 1]) for piece in pieces]

    monkeypatch.setattr(world.store, "read", altering)
    attachment = await world.attach_manifest(manifest_id, SIZE)
    pieces = await attachment.disk.read(5 * MIB + 512, 64 << 10)
    assert b"".join(bytes(piece) for piece in pieces) == CONTENT[5 * MIB + 512 :][: 64 << 10]
    assert altered
