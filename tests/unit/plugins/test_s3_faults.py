"""A store in a bucket whose way to the service breaks, stalls and crawls: right bytes or a clear error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from imsd_s3.options import S3StoreOptions
from imsd_s3.store import open_s3_store

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    ByteRange,
    ImsError,
    StoredBlob,
    Unavailable,
)
from tests.faulty_way import Fault, FaultyWay, Passing, faulty_way, status_answer
from tests.seaweedfs import ADMIN, SeaweedFS

MIB = 1 << 20
BLOB = BlobId("packs/0a/0a11")
LONG = random.Random(23).randbytes(12 * MIB + 17)  # three parts
SHORT = b"boot sector"

OpenStore = Callable[..., AbstractAsyncContextManager[BlobStore]]


@pytest.fixture
async def way(seaweedfs: SeaweedFS) -> AsyncIterator[FaultyWay]:
    async with faulty_way(seaweedfs.port) as way:
        yield way


@pytest.fixture
def options(seaweedfs: SeaweedFS, s3_bucket: str, tmp_path: Path) -> S3StoreOptions:
    """Without faults; impatient."""
    return S3StoreOptions(
        bucket=s3_bucket,
        endpoint=seaweedfs.endpoint,
        keys_file=ADMIN.write(tmp_path / "keys"),
        part_bytes=5 * MIB,
        stall_seconds=1.0,
        connect_seconds=5.0,
        stale_upload_hours=0.0,
    )


@pytest.fixture
async def direct(options: S3StoreOptions) -> AsyncIterator[BlobStore]:
    """The same store over a good way."""
    async with open_s3_store(replace(options, stall_seconds=30.0)) as store:
        yield store


@pytest.fixture
def open_store(options: S3StoreOptions, way: FaultyWay) -> OpenStore:
    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[BlobStore]:
        async with open_s3_store(replace(options, endpoint=way.endpoint, **changes)) as store:
            yield store

    return opened


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[BlobStore]:
    async with open_store() as store:
        yield store


async def put(store: BlobStore, content: bytes, blob: BlobId = BLOB) -> StoredBlob:
    async with store.begin(blob) as ingest:
        for start in range(0, len(content), MIB):
            await ingest.write([content[start : start + MIB]])
        return await ingest.commit()


async def content_of(store: BlobStore, blob: BlobId = BLOB) -> bytes:
    return (await store.read(blob, [ByteRange(0, (await store.stat(blob)).size_bytes)]))[0]


def is_get(passing: Passing) -> bool:
    return passing.method == "GET" and "list-type" not in passing.target


def is_part(passing: Passing) -> bool:
    return "partNumber" in passing.target


def is_commit(passing: Passing) -> bool:
    is_whole = passing.method == "PUT" and "?" not in passing.target
    return is_whole or (passing.method == "POST" and "uploadId" in passing.target)


PASSING_FAULTS = {
    "the answer is cut": lambda: Fault(cut_answer_after=1 * MIB, times=2),
    "the answer is cut at once": lambda: Fault(cut_answer_after=0, times=2),
    "the head of the answer is cut": lambda: Fault(cut_answer_after=40, times=2),
    "the answer stalls": lambda: Fault(stall_answer_after=1 * MIB),
    "no answer comes": lambda: Fault(stall_answer_after=0),
    "500": lambda: Fault(answer=status_answer(500, "InternalError"), times=2),
    "503": lambda: Fault(answer=status_answer(503, "SlowDown"), times=3),
    "502 of a gateway": lambda: Fault(answer=b"HTTP/1.1 502 x\r\nContent-Length: 2\r\n\r\nno", times=2),
    "429": lambda: Fault(answer=status_answer(429, "Throttling"), times=2),
    "what is no HTTP": lambda: Fault(answer=b"SSH-2.0-x\r\n\r\n"),
}


@pytest.mark.parametrize("name", [name for name in PASSING_FAULTS if name != "what is no HTTP"])
async def test_a_read_is_tried_again(direct: BlobStore, store: BlobStore, way: FaultyWay, name: str) -> None:
    await put(direct, LONG)
    way.add(replace(PASSING_FAULTS[name](), fits=is_get))
    assert await content_of(store) == LONG
    assert way.faults[0].times == 0
    await way.becomes_quiet()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in PASSING_FAULTS
        if name not in ("what is no HTTP", "the answer is cut", "the answer stalls")
    ],
)
@pytest.mark.parametrize("what", ["uploads", "partNumber", "uploadId=", ""])
async def test_a_write_is_tried_again(
    direct: BlobStore, store: BlobStore, way: FaultyWay, name: str, what: str
) -> None:
    def fits(passing: Passing) -> bool:
        return passing.method in ("PUT", "POST") and what in passing.target

    content = LONG if what else SHORT
    way.add(replace(PASSING_FAULTS[name](), fits=fits))
    stored = await put(store, content)
    assert way.faults[0].times == 0
    assert stored == await direct.stat(BLOB)
    assert await content_of(direct) == content


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_request_after=MIB, times=3, fits=is_part),
        Fault(stall_request_after=MIB, times=1, fits=is_part),
        Fault(stall_request_after=0, times=1, fits=is_part),
    ],
    ids=["cut", "stalled", "never taken"],
)
async def test_a_part_that_does_not_arrive_is_sent_again(
    direct: BlobStore, store: BlobStore, way: FaultyWay, fault: Fault
) -> None:
    way.add(replace(fault))
    await put(store, LONG)
    assert await content_of(direct) == LONG


async def test_what_is_slow_but_moves_is_waited_for(
    direct: BlobStore, open_store: OpenStore, way: FaultyWay
) -> None:
    """One part takes longer than a stall may; what the kernel holds of it does not."""
    content = LONG + LONG[: 4 * MIB]
    async with open_store(part_bytes=16 * MIB, stall_seconds=2.5) as store:
        way.add(Fault(pause_seconds=0.015, times=None))
        await put(store, content)
        assert await content_of(store) == content


@pytest.mark.parametrize("content", [SHORT, LONG], ids=["in one request", "in parts"])
async def test_a_commit_whose_answers_are_lost_is_known_by_its_mark(
    direct: BlobStore, store: BlobStore, way: FaultyWay, content: bytes
) -> None:
    way.add(Fault(fits=is_commit, cut_answer_after=0, times=None))
    stored = await put(store, content)
    assert stored == await direct.stat(BLOB)
    assert await content_of(direct) == content


@pytest.mark.parametrize("content", [SHORT, LONG], ids=["in one request", "in parts"])
async def test_a_commit_of_which_nothing_is_known_is_in_doubt_and_not_lost(
    direct: BlobStore, open_store: OpenStore, way: FaultyWay, content: bytes
) -> None:
    async with open_store(retries=1) as store:
        way.add(
            Fault(
                fits=lambda passing: is_commit(passing) or passing.method == "HEAD",
                cut_answer_after=0,
                times=None,
            )
        )
        with pytest.raises(Unavailable) as caught:
            await put(store, content)
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert caught.value.hint
    assert await content_of(direct) == content


@pytest.mark.parametrize("content", [SHORT, LONG], ids=["in one request", "in parts"])
async def test_the_blob_of_another_is_not_taken_for_the_own_one(
    direct: BlobStore, store: BlobStore, way: FaultyWay, content: bytes
) -> None:
    other = bytes(len(content))
    async with store.begin(BLOB) as ingest:
        await ingest.write([content])
        await put(direct, other)
        way.add(Fault(fits=is_commit, cut_answer_after=0))
        with pytest.raises(AlreadyExists):
            await ingest.commit()
    assert await content_of(direct) == other


@pytest.mark.parametrize("stalls", ["stall_answer_after", "stall_request_after"])
async def test_what_stalls_for_ever_is_an_error(open_store: OpenStore, way: FaultyWay, stalls: str) -> None:
    async with open_store(retries=1, stall_seconds=0.3) as store:
        way.add(Fault(times=None, **{stalls: 0}))  # type: ignore[arg-type]
        for call in (
            lambda: store.read(BLOB, [ByteRange(0, 1)]),
            lambda: store.stat(BLOB),
            lambda: store.delete(BLOB),
            lambda: store.usage(),
            lambda: put(store, SHORT),
            lambda: put(store, LONG),
            lambda: anext(store.list()),
        ):
            with pytest.raises(Unavailable) as caught:
                await call()
            assert "stuck" in caught.value.message
        await way.becomes_quiet()


async def test_a_service_that_is_gone_is_an_error_within_the_retries(
    open_store: OpenStore, way: FaultyWay
) -> None:
    async with open_store(retries=3) as store:
        way.seen.clear()
        way.add(Fault(times=None, answer=status_answer(503, "SlowDown", "please reduce your rate")))
        with pytest.raises(Unavailable) as caught:
            await store.stat(BLOB)
        assert len(way.seen) == 4
        assert caught.value.reason == "STORE_UNAVAILABLE"


async def test_retries_end_when_the_budget_of_the_store_is_used_up(
    open_store: OpenStore, way: FaultyWay
) -> None:
    async with open_store(retries=100, retry_seconds=0.5) as store:
        way.seen.clear()
        way.add(Fault(times=None, answer=status_answer(500, "InternalError")))
        calls = [store.stat(BlobId(f"packs/{number}")) for number in range(200)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert len(way.seen) <= 200 + 101  # a hundred retries of all, and one success had been before


@pytest.mark.parametrize(
    "fault", [Fault(stall_answer_after=0, times=None), Fault(stall_answer_after=MIB, times=None)]
)
async def test_a_cancelled_read_closes_its_connections(
    direct: BlobStore, open_store: OpenStore, way: FaultyWay, fault: Fault
) -> None:
    await put(direct, LONG)
    async with open_store(stall_seconds=60.0) as store:
        way.add(replace(fault, fits=is_get))
        reading = asyncio.create_task(store.read(BLOB, [ByteRange(0, len(LONG))]))
        while not any(map(is_get, way.seen)):
            await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        del reading
        await way.becomes_quiet()


def open_connections(port: int) -> int:
    """Those that this process made to a port."""
    found = psutil.Process().net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.port == port for each in found)


async def test_a_cancelled_ingest_leaves_nothing_and_touches_no_buffer(
    open_store: OpenStore, way: FaultyWay
) -> None:
    async with open_store(stall_seconds=60.0, retries=0, parts_at_once=1) as store:
        way.add(Fault(fits=is_part, stall_request_after=MIB, times=None))
        buffer = bytearray(6 * MIB)

        async def fill() -> None:
            async with store.begin(BLOB) as ingest:
                while True:
                    await ingest.write([buffer])

        filling = asyncio.create_task(fill())
        while not any(map(is_part, way.seen)):
            await asyncio.sleep(0.01)
        filling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await filling
        del filling
        buffer.clear()  # BufferError while anybody looks at it
        assert way.seen[-1].method == "DELETE"
        while open_connections(way.port):
            await asyncio.sleep(0.05)
        assert [blob async for blob in store.list()] == []


async def test_memory_is_bounded_when_the_service_is_slow(open_store: OpenStore, way: FaultyWay) -> None:
    piece = bytes(MIB)
    async with open_store(parts_at_once=2, stall_seconds=30.0) as store:
        await put(store, LONG, BlobId("warm"))
        before = psutil.Process().memory_info().rss
        way.add(Fault(fits=is_part, pause_seconds=0.002, times=None))
        peak = 0
        async with store.begin(BLOB) as ingest:
            for _ in range(160):
                await ingest.write([piece])
                peak = max(peak, psutil.Process().memory_info().rss)
            await ingest.commit()
    assert peak - before < 80 * MIB
    assert way.seen[-1].method == "HEAD"


async def test_a_way_that_fails_at_random_gives_right_bytes_or_errors(
    direct: BlobStore, open_store: OpenStore, way: FaultyWay
) -> None:
    chance = random.Random(29)
    kinds = [
        PASSING_FAULTS[name] for name in PASSING_FAULTS if "stall" not in name and "no answer" not in name
    ]
    async with open_store(retries=2) as store:
        for _ in range(400):
            way.add(replace(chance.choice(kinds)(), times=1, skip=chance.randrange(4)))
        for number in range(40):
            blob = BlobId(f"packs/{number:02}")
            content = chance.randbytes(chance.choice([10, 70_000, 6 * MIB]))
            try:
                await put(store, content, blob)
            except ImsError:
                found = [each.id async for each in direct.list() if each.id == blob]
                assert not found or await content_of(direct, blob) == content
                continue
            try:
                read = await content_of(store, blob)
            except ImsError:
                read = await content_of(direct, blob)
            assert read == content
