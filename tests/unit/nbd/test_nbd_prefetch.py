"""The order of first touches: recorded, kept with the content, followed at the next attachment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from imsd.nbd import access_trace, attachments
from imsd.nbd.access_trace import BLOCK_BYTES, MAX_ENTRIES, MAX_SECONDS, AccessTrace, Entries, TraceFiles
from imsd.nbd.attachment import Attachment
from imsd.nbd.prefetching import MAX_STEPS
from imsd.nbd.read_ahead import MAX_BYTES, ReadAhead
from tests.unit.chunks.ingest_world import MIB
from tests.unit.nbd.block_world import BlockWorld, mixed_disk, started
from tests.unit.nbd.raw_client import READ, reading

DISK = mixed_disk()
CONTENT = DISK.content()
SIZE = len(CONTENT)


async def until_prefetched(world: BlockWorld, attachment_id: str = "a1") -> None:
    async with asyncio.timeout(30):
        while True:
            prefetcher = world.attachments.get(attachment_id).prefetcher
            assert prefetcher is not None
            if prefetcher.is_idle and world.attachments.get(attachment_id).disk.is_open:
                return
            await asyncio.sleep(0.01)


async def read_and_detached(world: BlockWorld, manifest_id: str, starts: Sequence[int]) -> Entries:
    """The record of a client that read 4 KiB at each of ``starts``."""
    attachment = await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        for start in starts:
            await client.read(start, 4096)
    await world.attachments.detach("a1", force=False)
    return list(attachment.trace.entries)


async def kept(world: BlockWorld, attachment: Attachment) -> Entries:
    """The record of what it reads."""
    digest = (await attachment.disk.open()).digest
    return TraceFiles(world.folder / "traces").load(digest, attachment.description.size_bytes)


def test_a_trace_has_first_touches_in_their_order() -> None:
    trace = AccessTrace(10 * BLOCK_BYTES + 512)
    for start, length in [(5 * BLOCK_BYTES + 3, 10), (0, 1), (BLOCK_BYTES, 2 * BLOCK_BYTES), (0, 4096)]:
        trace.touch(start, length, 0.0)
    trace.touch(10 * BLOCK_BYTES, 512, 0.0)
    assert trace.entries == [(5 * BLOCK_BYTES, BLOCK_BYTES), (0, 3 * BLOCK_BYTES), (10 * BLOCK_BYTES, 512)]


def test_recording_ends() -> None:
    trace = AccessTrace(1 << 50)
    for number in range(MAX_ENTRIES + 10):
        trace.touch(2 * number * BLOCK_BYTES, 1, 0.0)
    assert (len(trace.entries), trace.is_complete) == (MAX_ENTRIES, True)
    trace = AccessTrace(1 << 50)
    trace.touch(0, 1, 100.0)
    trace.touch(10 * BLOCK_BYTES, 1, 100.0 + MAX_SECONDS + 1)
    trace.touch(20 * BLOCK_BYTES, 1, 100.0 + MAX_SECONDS + 2)
    assert (len(trace.entries), trace.is_complete) == (2, True)


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_trace_that_cannot_be_read_is_none(tmp_path: Path, damage: bytes | None) -> None:
    files = TraceFiles(tmp_path / "traces")
    files.open()
    files.save("b3t:1", [(0, 100), (500, 12)])
    assert list(files.load("b3t:1", 512)) == [(0, 100), (500, 12)]
    assert list(files.load("b3t:1", 511)) == []  # not of a disk of this size
    assert list(files.load("b3t:2", 512)) == []
    (file,) = (tmp_path / "traces").iterdir()
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert list(files.load("b3t:1", 512)) == []


def test_the_oldest_of_very_many_traces_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TraceFiles(tmp_path)
    for number in range(5):
        files.save(f"b3t:{number}", [(0, 512)])
        for path in tmp_path.iterdir():
            os.utime(path, (0, path.stat().st_mtime_ns // 10**9 - 1000))
    monkeypatch.setattr("imsd.nbd.access_trace.MAX_FILES", 2)
    files.open()
    assert [bool(files.load(f"b3t:{number}", 512)) for number in range(5)] == [False] * 3 + [True] * 2


async def test_the_next_attachment_prefetches_in_the_order_of_the_first(unstarted: BlockWorld) -> None:
    async with started(unstarted) as world:
        manifest_id = await world.put(DISK)
        await world.attach_manifest(manifest_id, SIZE)
        order = [(10 * MIB, 65536), (0, 65536), (SIZE - 65536, 65536), (6 * MIB, 65536)]
        async with reading(world.socket()) as client:
            for start, length in order:
                await client.read(start, length)
        await world.attachments.detach("a1", force=False)
        await world.fetched.written()
        for file in (world.folder / "cache").iterdir():
            file.unlink()
        await world.restart()
        world.store.reads.clear()
        attachment = await world.attach_manifest(manifest_id, SIZE, "again")
        async with asyncio.timeout(30):
            while len(world.store.reads) < len(order):
                await asyncio.sleep(0.01)
        await until_prefetched(world, "again")
        await world.fetched.written()
        places = [offset for _, (offset, _) in world.store.reads]
        assert places != sorted(places)
        assert attachment.disk.stats.prefetched_bytes > 0
        world.store.is_down = True  # what is prefetched needs the store no more
        async with reading(world.socket("again")) as client:
            for start, length in order:
                assert await client.read(start, length) == CONTENT[start : start + length]


async def test_a_look_does_not_replace_the_record_of_a_boot(world: BlockWorld) -> None:
    manifest_id = await world.put(DISK)
    attachment = await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        await client.read(0, SIZE)
    boot = list(attachment.trace.entries)
    digest = (await attachment.disk.open()).digest
    await world.attachments.detach("a1", force=False)
    await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        await client.read(0, 512)
    await world.attachments.detach("a1", force=False)
    traces = TraceFiles(world.folder / "traces")
    assert list(traces.load(digest, SIZE)) == boot


async def test_a_boot_replaces_the_record_of_a_copy(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "LOOK_BYTES", 256 << 10)
    manifest_id = await world.put(DISK)
    attachment = await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        await client.read(0, SIZE)
    digest = (await attachment.disk.open()).digest
    await world.attachments.detach("a1", force=False)
    attachment = await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        for start in (6 * MIB, 0, 3 * MIB):
            await client.read(start, 4096)
    boot = list(attachment.trace.entries)
    await world.attachments.detach("a1", force=False)
    assert list(TraceFiles(world.folder / "traces").load(digest, SIZE)) == boot


async def test_a_copy_does_not_replace_the_record_of_a_boot(world: BlockWorld) -> None:
    manifest_id = await world.put(DISK)
    attachment = await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        for start in (6 * MIB, 0, 3 * MIB):
            await client.read(start, 4096)
    boot = list(attachment.trace.entries)
    digest = (await attachment.disk.open()).digest
    await world.attachments.detach("a1", force=False)
    await world.attach_manifest(manifest_id, SIZE)
    async with reading(world.socket()) as client:
        await client.read(0, SIZE)
    await world.attachments.detach("a1", force=False)
    assert list(TraceFiles(world.folder / "traces").load(digest, SIZE)) == boot


async def test_a_copy_that_is_not_over_does_not_replace_the_record_of_a_boot(
    unstarted: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a large disk lasts longer than it takes until records are kept."""
    monkeypatch.setattr(attachments, "SAVE_SECONDS", 0.02)
    monkeypatch.setattr(access_trace, "MAX_BLOCKS", 20)
    async with started(unstarted) as world:
        manifest_id = await world.put(DISK)
        boot = await read_and_detached(world, manifest_id, [6 * MIB, 0, 3 * MIB])
        copying = await world.attach_manifest(manifest_id, SIZE)
        other = await world.attach(mixed_disk(32 * MIB), "other")
        async with reading(world.socket()) as client, reading(world.socket("other")) as looking:
            for number in range(2):
                await client.read(number * MIB, MIB)
                await looking.read(number * MIB, 4096)
                async with asyncio.timeout(10):
                    while not other.trace.is_saved:  # which comes after the other one
                        await asyncio.sleep(0.01)
                assert await kept(world, copying) == boot
            assert len(await kept(world, other)) == 2  # its own record goes on
            await client.read(2 * MIB, MIB)
        assert copying.trace.is_complete
        await world.attachments.detach("a1", force=False)
        assert await kept(world, other) != await kept(world, copying) == boot


async def test_a_boot_in_little_memory_is_no_copy(unstarted: BlockWorld) -> None:
    unstarted.memory_bytes = MIB
    async with started(unstarted) as world:
        manifest_id = await world.put(DISK)
        await read_and_detached(world, manifest_id, [6 * MIB, 0, 3 * MIB])
        order = [9 * MIB, 6 * MIB, 0, 11 * MIB, MIB, 12 * MIB]
        attachment = await world.attach_manifest(manifest_id, SIZE)
        reader = await attachment.disk.open()
        async with reading(world.socket()) as client:
            while attachment.disk.stats.memory_misses < reader.manifest.chunk_count:
                for start in order:
                    await client.read(start, 4096)
        await world.attachments.detach("a1", force=False)
        assert [start for start, _ in await kept(world, attachment)] == order


async def test_what_is_asked_for_goes_before_what_is_prefetched(world: BlockWorld) -> None:
    attachment = await world.attach(DISK)
    assert attachment.prefetcher is not None
    async with reading(world.socket()) as client:
        world.store.gate.clear()
        asked = client.send(READ, 8 * MIB, 4096)
        async with asyncio.timeout(30):
            while not attachment.disk.is_busy:
                await asyncio.sleep(0.01)
        attachment.prefetcher.follow([(0, 2 * MIB)])
        await asyncio.sleep(0.2)
        assert attachment.prefetcher.waiting == 2  # in vain: somebody waits
        world.store.gate.set()
        answers = await client.answers({asked: (READ, 8 * MIB, 4096)})
        assert answers[asked].data == CONTENT[8 * MIB :][:4096]
        await until_prefetched(world)


async def test_prefetching_waits_for_a_store_that_is_away(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsd.nbd.prefetching.RETRY_SECONDS", 0.05)
    attachment = await world.attach(DISK)
    assert attachment.prefetcher is not None
    world.store.is_down = True
    attachment.prefetcher.follow([(0, MIB)])
    await asyncio.sleep(0.3)
    assert not attachment.prefetcher.is_idle
    world.store.is_down = False
    await until_prefetched(world)
    assert attachment.disk.stats.prefetched_bytes > 0


def test_reading_ahead_grows_and_stops_at_the_end_of_the_disk() -> None:
    ahead = ReadAhead(64 * MIB, 64 * MIB)
    told = []
    for start in range(0, 64 * MIB, 64 << 10):
        if found := ahead.next_range(start, 64 << 10):
            told.append(found)
    position = told[0][0]
    for start, length in told:
        assert start == position
        assert 0 < length <= MAX_BYTES
        position += length
    assert position == 64 * MIB
    assert max(length for _, length in told) >= MAX_BYTES // 2


def test_nothing_is_read_ahead_of_reads_without_order() -> None:
    ahead = ReadAhead(1 << 40, 64 * MIB)
    assert not any(ahead.next_range((number * 7919) % 1000 << 30, 4096) for number in range(100))


def test_several_streams_share_the_room() -> None:
    ahead = ReadAhead(1 << 40, 4 * MIB)
    reach = 0
    for step in range(200):
        for stream in range(4):
            start = (stream << 35) + step * (64 << 10)
            if found := ahead.next_range(start, 64 << 10):
                reach = max(reach, sum(found) - start)
    assert reach <= MIB + (64 << 10)


async def test_announcements_beyond_what_may_wait_cost_nothing(world: BlockWorld) -> None:
    """A client can send thousands a second, each of them of 4 GiB: of 4096 pieces."""
    attachment = await world.attach(DISK)
    assert attachment.prefetcher is not None
    asked: list[int] = []

    class Entry(tuple[int, int]):
        def __iter__(self) -> Iterator[int]:
            asked.append(1)
            return iter((0, 1 << 35))

    world.store.gate.clear()
    attachment.prefetcher.follow([Entry() for _ in range(5)])
    assert attachment.prefetcher.waiting == MAX_STEPS
    assert len(asked) == 1
    attachment.prefetcher.forget()
    world.store.gate.set()
