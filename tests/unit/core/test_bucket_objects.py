"""Objects put, read and deleted: whole or not at all, of one version, and never one for another."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from imsd.contract import BlobStore, ImsError, StoredBlob, Unavailable, blob_id
from imsd.core.bucket_sections import BucketSection
from imsd.core.export_target import ExportTargets
from imsd.core.object_feed import version_mark
from imsd.core.objects import object_put
from imsd.core.objects.bucket_objects import PUTS_AT_ONCE, BucketObjects, WantedBytes
from imsd.core.objects.object_put import NewObject, awaited
from imsd.metadata.database import Database
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import buckets_of, open_runtime, pool_of

MIB = 1 << 20
PLACE = "main:folder/Disk.raw"
NAME = blob_id("folder/Disk.raw")
LARGEST = 20 * MIB


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
async def objects(database: Database, store: FaultyStore) -> AsyncIterator[BucketObjects]:
    async with opened(database, main=store) as objects:
        yield objects


@asynccontextmanager
async def opened(
    database: Database, said: dict[str, BucketSection] | None = None, **stores: BlobStore
) -> AsyncIterator[BucketObjects]:
    async with open_runtime(database, pool_of(main=MemoryStore())) as runtime:
        runtime = replace(runtime, limits=replace(runtime.limits, max_upload_size_bytes=LARGEST))
        yield BucketObjects(runtime, buckets_of("local", said, **stores), ExportTargets())


async def put(
    objects: BucketObjects,
    content: bytes,
    place: str = PLACE,
    *,
    declared: int | None = None,
    committed: int | None = None,
    sha256: str = "",
) -> tuple[StoredBlob, str]:
    async with objects.putting("default", NewObject(place, declared)) as opened:
        for start in range(0, len(content), MIB):
            await opened.write(content[start : start + MIB])
        return await opened.commit(len(content) if committed is None else committed, sha256)


async def read(objects: BucketObjects, wanted: WantedBytes | None = None) -> bytes:
    content = bytearray()
    async with objects.reading("default", PLACE, wanted or WantedBytes()) as reading:
        async for step in reading.steps:
            assert isinstance(step, int | memoryview)
            content += bytes(step) if isinstance(step, int) else step
        assert len(content) == reading.length
    return bytes(content)


async def names(store: BlobStore) -> list[str]:
    return [stored.id async for stored in store.list()]


@pytest.mark.parametrize("content", [b"", b"x", bytes(3 * MIB + 5), b"a" * (2 * MIB) + bytes(MIB) + b"b"])
async def test_what_was_put_is_read_from_any_offset(objects: BucketObjects, content: bytes) -> None:
    stored, sha256 = await put(objects, content, declared=len(content))
    assert (stored.size_bytes, sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert await objects.stat("default", PLACE) == stored
    for offset in {0, len(content) // 2, len(content)}:
        assert await read(objects, WantedBytes(offset)) == content[offset:]
    if content:
        assert await read(objects, WantedBytes(0, 1)) == content[:1]


async def test_zeros_are_put_as_their_number(objects: BucketObjects) -> None:
    async with objects.putting("default", NewObject(PLACE, None)) as opened:
        await opened.write_zeros(2 * MIB + 7)
        await opened.write(b"end")
        await opened.commit(2 * MIB + 10, hashlib.sha256(bytes(2 * MIB + 7) + b"end").hexdigest())
    assert await read(objects) == bytes(2 * MIB + 7) + b"end"


async def test_what_is_left_without_commit_is_nowhere(objects: BucketObjects, store: FaultyStore) -> None:
    async with objects.putting("default", NewObject(PLACE, 3)) as opened:
        await opened.write(b"abc")
    left = put(objects, b"abc", committed=4)
    with pytest.raises(ImsError):
        await left
    assert await names(store) == []
    await put(objects, b"abc")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"declared": 4}, "UPLOAD_INCOMPLETE"),
        ({"committed": 4}, "UPLOAD_INCOMPLETE"),
        ({"declared": 2}, "UPLOAD_TOO_LONG"),
        ({"declared": -1}, "INVALID_REQUEST"),
        ({"declared": LARGEST + 1}, "LIMIT_EXCEEDED"),
        ({"sha256": "0" * 64}, "DIGEST_MISMATCH"),
        ({"sha256": "A" * 64}, "INVALID_REQUEST"),
    ],
)
async def test_what_was_not_announced_so_becomes_no_object(
    objects: BucketObjects, store: FaultyStore, said: dict[str, object], reason: str
) -> None:
    with pytest.raises(ImsError) as refused:
        await put(objects, b"abc", **said)  # type: ignore[arg-type]
    assert refused.value.reason == reason
    assert await names(store) == []


async def test_nothing_larger_than_the_limit_is_taken(objects: BucketObjects, store: FaultyStore) -> None:
    async with objects.putting("default", NewObject(PLACE, None)) as opened:
        await opened.write_zeros(LARGEST)
        with pytest.raises(ImsError) as refused:
            await opened.write(b"x")
        assert refused.value.reason == "LIMIT_EXCEEDED"
        for length in (0, -1):
            with pytest.raises(ImsError):
                await opened.write_zeros(length)
        for data in (b"", bytes(MIB + 1)):
            with pytest.raises(ImsError):
                await opened.write(data)
    assert await names(store) == []


async def test_nothing_is_replaced(objects: BucketObjects, store: FaultyStore) -> None:
    await put(objects, b"first")
    for place in (PLACE, "main:folder", "main:folder/Disk.raw/inside"):
        with pytest.raises(ImsError) as refused:
            await put(objects, b"second", place)
        assert (refused.value.reason, refused.value.field) == ("OBJECT_EXISTS", "object")
    assert await read(objects) == b"first"


async def test_of_two_that_put_one_name_at_once_one_wins(objects: BucketObjects) -> None:
    outcomes = await asyncio.gather(
        *(put(objects, bytes([number])) for number in range(4)), return_exceptions=True
    )
    won = [number for number, each in enumerate(outcomes) if not isinstance(each, BaseException)]
    assert len(won) == 1
    assert {each.reason for each in outcomes if isinstance(each, ImsError)} == {"OBJECT_EXISTS"}
    assert await read(objects) == bytes(won)


async def test_an_object_that_is_read_again_does_not_block_the_daemon(
    objects: BucketObjects, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, threads = hashlib.sha256, set[int]()

    class Noted:
        def __init__(self) -> None:
            self._hasher = real()
            self.hexdigest = self._hasher.hexdigest

        def update(self, content: bytes) -> None:
            threads.add(threading.get_ident())
            self._hasher.update(content)

    monkeypatch.setattr(hashlib, "sha256", Noted)
    store.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER))
    await put(objects, bytes(range(256)) * (MIB >> 6))
    assert threads
    assert threading.get_ident() not in threads


async def test_a_commit_of_which_nobody_knows_is_looked_at(
    objects: BucketObjects, store: FaultyStore
) -> None:
    store.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER))
    stored, _ = await put(objects, b"whole")
    assert stored.size_bytes == 5
    store.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_BEFORE))
    with pytest.raises(Unavailable):
        await put(objects, b"never", "main:other")
    assert await names(store) == [NAME]


@pytest.mark.parametrize(
    "wanted", [WantedBytes(-1), WantedBytes(6), WantedBytes(0, 6), WantedBytes(5, 1), WantedBytes(0, -1)]
)
async def test_bytes_that_are_not_there_are_refused(objects: BucketObjects, wanted: WantedBytes) -> None:
    await put(objects, b"12345")
    with pytest.raises(ImsError) as refused:
        await read(objects, wanted)
    assert refused.value.reason == "INVALID_REQUEST"


async def test_only_the_version_that_is_meant_is_read_or_deleted(objects: BucketObjects) -> None:
    first, _ = await put(objects, b"first")
    etag = version_mark(first)
    assert await read(objects, WantedBytes(2, 0, etag)) == b"rst"
    await objects.delete("default", PLACE, etag)
    await put(objects, b"other")
    with pytest.raises(ImsError) as refused:
        await read(objects, WantedBytes(2, 0, etag))
    assert refused.value.reason == "CONFLICT"
    with pytest.raises(ImsError) as refused:
        await objects.delete("default", PLACE, etag)
    assert refused.value.reason == "CONFLICT"
    await objects.delete("default", PLACE, "")
    with pytest.raises(ImsError) as refused:
        await objects.delete("default", PLACE, "")
    assert refused.value.reason == "OBJECT_NOT_FOUND"


async def test_an_object_that_is_replaced_while_it_is_read_ends_the_reading(
    objects: BucketObjects, store: FaultyStore
) -> None:
    await put(objects, bytes(range(256)) * 4 * 4 * 1024)
    async with objects.reading("default", PLACE, WantedBytes()) as reading:
        assert await anext(reading.steps)
        await store.delete(NAME)
        async with store.begin(NAME) as ingest:
            await ingest.write([b"new"])
            await ingest.commit()
        with pytest.raises(ImsError) as changed:
            async for _ in reading.steps:
                pass
    assert changed.value.reason == "CONFLICT"


async def test_a_bucket_is_read_and_written_by_its_projects_and_as_it_is_configured(
    database: Database,
) -> None:
    said = {
        "theirs": BucketSection("memory", ("web",)),
        "fixed": BucketSection("memory", ("*",), read_only=True),
        "cold": BucketSection("memory", ("*",), storage_class="cold", region="far"),
    }
    stores = {name: MemoryStore() for name in said}
    async with opened(database, said, **stores) as objects:
        for attempt in (
            lambda place: put(objects, b"x", place),
            lambda place: objects.delete("default", place, ""),
        ):
            for bucket, reason in (("theirs", "BUCKET_NOT_FOUND"), ("fixed", "STORE_READ_ONLY")):
                with pytest.raises(ImsError) as refused:
                    await attempt(f"{bucket}:x")
                assert refused.value.reason == reason
        await put(objects, b"x", "cold:x")  # of no image, so it need not be near
        with pytest.raises(ImsError) as refused:
            await objects.stat("default", "theirs:x")
        assert refused.value.reason == "BUCKET_NOT_FOUND"


async def test_those_who_wait_get_the_place_of_a_writer_that_sends_nothing(
    objects: BucketObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_put, "IDLE_SECONDS", 0.01)
    never = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield b"first"
        await never.wait()

    async with AsyncExitStack() as stack:
        for number in range(PUTS_AT_ONCE):
            await stack.enter_async_context(objects.putting("default", NewObject(f"main:{number}", None)))
        assert not objects.is_place_wanted()
        waiting = asyncio.create_task(put(objects, b"x", "main:waits"))
        steps = awaited(silent(), objects.is_place_wanted)
        assert await anext(steps) == b"first"
        with pytest.raises(Unavailable):
            await anext(steps)
        assert not waiting.done()
    assert (await waiting)[0].size_bytes == 1
