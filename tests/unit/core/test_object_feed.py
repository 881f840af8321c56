"""Images of objects: read in order, from where a run before stopped, and of one version only."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import pytest

from imsd.contract import BlobStore, ImsError, blob_id
from imsd.core import object_feed
from imsd.core.feeds import OpenedFeed
from imsd.core.object_feed import PIECE_BYTES, ObjectFeed, ObjectReads
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import buckets_of

MIB = 1 << 20
NAME = blob_id("disks/Disk.raw")


async def put(store: BlobStore, content: bytes) -> None:
    await store.delete(NAME)
    async with store.begin(NAME) as ingest:
        await ingest.write([content])
        await ingest.commit()


def feed_of(store: BlobStore) -> ObjectFeed:
    return ObjectFeed(ObjectReads(buckets_of(main=store)), "default", f"main:{NAME}")


async def content_of(opened: OpenedFeed) -> bytes:
    content = bytearray()
    async with aclosing(opened.steps()) as steps:
        async for step in steps:
            content += bytes(step) if isinstance(step, int) else step  # type: ignore[arg-type]
    return bytes(content)


def reason_of(error: pytest.ExceptionInfo[ImsError]) -> tuple[str, str]:
    assert error.value.hint
    return error.value.reason, error.value.field


@pytest.mark.parametrize("size", [1, 4095, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 777])
async def test_every_byte_comes_once_from_any_offset(size: int) -> None:
    store, content = MemoryStore(), random.Random(size).randbytes(size)
    await put(store, content)
    feed = feed_of(store)
    assert (feed.name, await feed.known_size()) == ("Disk.raw", size)
    for offset in {0, 1, size // 2, size - 1, size}:
        async with feed.open(offset) as opened:
            assert opened.size_bytes == size
            assert await content_of(opened) == content[offset:]


async def test_zeros_are_told_as_their_number() -> None:
    store = MemoryStore()
    await put(store, b"\1" + bytes(3 * MIB - 1) + b"\2")
    async with feed_of(store).open(0) as opened, aclosing(opened.steps()) as steps:
        told = [step if isinstance(step, int) else memoryview(step)[0] for step in [s async for s in steps]]  # type: ignore[arg-type]
    assert told == [1, MIB, MIB, 2]


async def test_the_mark_is_of_one_version() -> None:
    store = MemoryStore()
    await put(store, b"one")
    async with feed_of(store).open(0) as first, feed_of(store).open(2) as again:
        again.require_same(first.mark)
        assert first.mark.isascii()
        assert len(first.mark) <= 128
    await put(store, b"two")
    async with feed_of(store).open(0) as other:
        with pytest.raises(ImsError) as refused:
            other.require_same(first.mark)
    assert reason_of(refused) == ("FAILED_PRECONDITION", "object")


@pytest.mark.parametrize("later", [b"b" * (9 * MIB), b"short", None])
async def test_an_object_that_is_replaced_while_it_is_read_is_noticed(later: bytes | None) -> None:
    store = MemoryStore()
    await put(store, b"a" * (9 * MIB))
    async with feed_of(store).open(0) as opened, aclosing(opened.steps()) as steps:
        await anext(steps)
        await store.delete(NAME)
        if later is not None:
            await put(store, later)
        with pytest.raises(ImsError) as refused:
            async for _ in steps:
                pass
    assert reason_of(refused) == ("FAILED_PRECONDITION", "object")
    assert "changed while it was read" in refused.value.message


async def test_a_long_read_notices_it_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_feed, "CHECK_BYTES", PIECE_BYTES)
    store, seen = MemoryStore(), 0
    await put(store, b"a" * (40 * MIB))

    async def read() -> None:
        nonlocal seen
        async with feed_of(store).open(0) as opened, aclosing(opened.steps()) as steps:
            async for step in steps:
                if not seen:
                    await put(store, b"b" * (40 * MIB))
                seen += len(step)  # type: ignore[arg-type]

    with pytest.raises(ImsError, match="changed"):
        await read()
    assert seen <= 2 * PIECE_BYTES


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, ("OBJECT_NOT_FOUND", "object")), (b"", ("IMAGE_EMPTY", "object"))],
)
async def test_what_is_not_there_or_empty_is_refused(
    content: bytes | None, expected: tuple[str, str]
) -> None:
    store = MemoryStore()
    if content is not None:
        await put(store, content)
    with pytest.raises(ImsError) as refused:
        await feed_of(store).known_size()
    assert reason_of(refused) == expected
    with pytest.raises(ImsError) as refused:
        async with feed_of(store).open(0):
            pass
    assert reason_of(refused) == expected


@pytest.mark.parametrize("ends", ["cancelled", "closed", "failed"])
async def test_whatever_ends_a_read_gives_its_room_back(ends: str) -> None:
    store: Any = MemoryStore()
    await put(store, b"a" * (30 * MIB))
    if ends == "failed":
        store = FaultyStore(store, Fault(call=Call.READ, kind=FaultKind.RAISE_BEFORE, skip=2))
    reads = ObjectReads(buckets_of(main=store))
    before = reads.places._value

    async def read() -> None:
        async with (
            ObjectFeed(reads, "default", f"main:{NAME}").open(0) as opened,
            aclosing(opened.steps()) as steps,
        ):
            await anext(steps)
            if ends == "cancelled":
                await asyncio.Event().wait()
            elif ends == "failed":
                async for _ in steps:
                    pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    assert reads.places._value == before
    if ends == "failed":
        assert isinstance(task.exception(), ImsError)


async def test_many_reads_share_the_room_and_all_end() -> None:
    store, content = MemoryStore(), random.Random(3).randbytes(13 * MIB)
    await put(store, content)
    reads = ObjectReads(buckets_of(main=store))

    async def read() -> bytes:
        async with ObjectFeed(reads, "default", f"main:{NAME}").open(0) as opened:
            return await content_of(opened)

    assert all(each == content for each in await asyncio.gather(*(read() for _ in range(20))))
    assert reads.places._value == object_feed.MAX_PIECES
