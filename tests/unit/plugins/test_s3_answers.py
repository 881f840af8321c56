"""What services say otherwise than SeaweedFS does, and what is made of it: the way answers in their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from imsd_s3.options import S3StoreOptions
from imsd_s3.store import open_s3_store

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    ByteRange,
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from tests.faulty_way import Fault, FaultyWay, Passing, faulty_way, status_answer
from tests.seaweedfs import ADMIN, READER, SeaweedFS

MIB = 1 << 20
BLOB = BlobId("packs/0a/0a11")


@pytest.fixture
async def way(seaweedfs: SeaweedFS) -> AsyncIterator[FaultyWay]:
    async with faulty_way(seaweedfs.port) as way:
        yield way


@pytest.fixture
def options(s3_bucket: str, way: FaultyWay, tmp_path: Path) -> S3StoreOptions:
    return S3StoreOptions(
        bucket=s3_bucket,
        endpoint=way.endpoint,
        keys_file=ADMIN.write(tmp_path / "keys"),
        part_bytes=5 * MIB,
        stale_upload_hours=0.0,
        retries=1,
    )


@pytest.fixture
async def store(options: S3StoreOptions) -> AsyncIterator[BlobStore]:
    async with open_s3_store(options) as store:
        yield store


async def put(store: BlobStore, content: bytes, blob: str = BLOB) -> None:
    async with store.begin(BlobId(blob)) as ingest:
        await ingest.write([content])
        await ingest.commit()


async def ids(store: BlobStore) -> list[str]:
    return [blob.id async for blob in store.list()]


def ok(body: str) -> bytes:
    content = body.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(content) + content


def page(inner: str, root: str = "ListBucketResult") -> bytes:
    return ok(f"<{root}>{inner}</{root}>")


def is_list(passing: Passing) -> bool:
    return "list-type" in passing.target


def is_method(*names: str) -> Callable[[Passing], bool]:
    return lambda passing: passing.method in names


def one(key: str = "blob", size: str = "1", time: str = "2026-01-01T00:00:00Z") -> str:
    return f"<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{time}</LastModified></Contents>"


async def test_deleting_what_is_missing_is_no_error_where_the_service_finds_it_one(
    store: BlobStore, way: FaultyWay
) -> None:
    way.add(Fault(fits=is_method("DELETE"), answer=status_answer(404, "NoSuchKey")))
    await store.delete(BLOB)
    way.add(Fault(fits=is_method("DELETE"), answer=status_answer(404, "NoSuchBucket")))
    with pytest.raises(Unavailable):
        await store.delete(BLOB)


@pytest.mark.parametrize("content", [b"short", bytes(6 * MIB)], ids=["in one request", "in parts"])
async def test_whose_an_object_is_that_nobody_can_look_at_is_in_doubt(
    store: BlobStore, way: FaultyWay, content: bytes
) -> None:
    """The first answer is lost, the second one says that an object is there: it may well be the own one."""
    async with store.begin(BLOB) as ingest:
        await ingest.write([content])
        commit = is_method("PUT") if len(content) < MIB else lambda passing: "uploadId" in passing.target
        way.add(Fault(fits=commit, cut_answer_after=0))
        way.add(Fault(fits=commit, answer=status_answer(412, "PreconditionFailed")))
        way.add(Fault(fits=is_method("HEAD"), cut_answer_after=0, times=None))
        with pytest.raises(Unavailable):
            await ingest.commit()


async def test_an_object_of_another_stays_one_when_its_key_may_not_be_looked_at(
    store: BlobStore, way: FaultyWay
) -> None:
    await put(store, b"first")
    way.add(Fault(fits=is_method("HEAD"), answer=status_answer(403, "AccessDenied"), times=None))
    with pytest.raises(AlreadyExists):
        await put(store, b"second")


async def test_of_a_bucket_that_is_gone_no_blob_is_said_to_be_lost(
    store: BlobStore, options: S3StoreOptions, seaweedfs: SeaweedFS
) -> None:
    await put(store, b"content")
    with pytest.raises(NotFound):
        await store.stat(BlobId("missing"))
    seaweedfs.remove_bucket(options.bucket)
    calls: list[Callable[[], Any]] = [
        lambda: store.stat(BLOB),
        lambda: store.read(BLOB, [ByteRange(0, 1)]),
        lambda: store.delete(BLOB),
        lambda: ids(store),
    ]
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call()
        assert "bucket" in caught.value.hint


async def test_why_an_object_is_not_shown_is_told_though_such_an_answer_has_no_words(
    store: BlobStore, way: FaultyWay
) -> None:
    await put(store, b"content")
    way.add(Fault(fits=is_method("HEAD"), answer=status_answer(403, ""), times=None))
    way.add(Fault(fits=is_list, answer=status_answer(403, "RequestTimeTooSkewed"), times=1))
    with pytest.raises(Unavailable) as late:
        await store.stat(BLOB)
    assert "clock" in late.value.hint
    way.add(Fault(fits=is_list, answer=status_answer(403, "SignatureDoesNotMatch"), times=1))
    with pytest.raises(FailedPrecondition) as wrong:
        await store.stat(BLOB)
    assert "secret" in wrong.value.hint
    with pytest.raises(FailedPrecondition) as denied:  # the bucket may be listed: it is about this object
        await store.stat(BLOB)
    assert "allow the access key" in denied.value.hint


async def test_a_key_that_got_no_rights_is_replaced_by_the_one_in_its_file(
    options: S3StoreOptions, tmp_path: Path
) -> None:
    path = READER.write(tmp_path / "replaced")
    async with open_s3_store(replace(options, keys_file=path)) as store:
        with pytest.raises(FailedPrecondition):
            await put(store, b"content")
        ADMIN.write(path)
        await put(store, b"content")


@pytest.mark.parametrize("status", [400, 403])
async def test_a_key_that_expired_is_replaced_when_a_blob_is_looked_at(
    options: S3StoreOptions, way: FaultyWay, tmp_path: Path, status: int
) -> None:
    path = READER.write(tmp_path / "expiring")
    async with open_s3_store(replace(options, keys_file=path)) as store:
        ADMIN.write(path)
        await put(store, b"content")
        READER.write(path)
        way.add(Fault(fits=is_method("HEAD"), answer=status_answer(status, ""), times=1))
        assert (await store.stat(BLOB)).size_bytes == 7


async def test_the_name_of_a_blob_does_not_explain_why_it_cannot_be_read(
    store: BlobStore, way: FaultyWay
) -> None:
    for name in ("certificate", "HandshakeFailure", "Connect"):
        await put(store, b"content", name)
        way.add(Fault(fits=is_method("GET"), cut_answer_after=0))
        assert await store.read(BlobId(name), [ByteRange(0, 7)]) == [b"content"]


@pytest.mark.parametrize(
    "answer",
    [
        page(f"{one()}<IsTruncated>true</IsTruncated>"),
        page(f"{one()}<IsTruncated>true</IsTruncated><NextMarker>blob</NextMarker>"),
        page(f"{one()}<IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>"),
        page(one(size="many")),
        ok("<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult><Name>&b;</Name></ListBucketResult>"),
        ok("<ListBucketResult>"),
        ok("<ListBucketResult>\x01</ListBucketResult>"),
        page("", "ListAllMyBucketsResult"),
    ],
    ids=["no token", "marker", "one token", "size", "entities", "cut", "control", "other"],
)
async def test_a_list_that_nobody_can_follow_is_an_error_and_not_short(
    store: BlobStore, way: FaultyWay, answer: bytes
) -> None:
    way.add(Fault(fits=is_list, answer=answer, times=None))
    calls: list[Callable[[], Any]] = [lambda: ids(store), store.usage]
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call()
        assert "S3" in caught.value.hint


async def test_keys_of_a_list_are_taken_as_they_are_written(store: BlobStore, way: FaultyWay) -> None:
    way.add(Fault(fits=is_list, answer=page(one("a%41") + one("b"))))
    assert await ids(store) == ["b"]
    way.add(Fault(fits=is_list, answer=page(one("a%41") + one("b") + "<EncodingType>url</EncodingType>")))
    assert await ids(store) == ["aA", "b"]


@pytest.mark.parametrize("time", ["", "yesterday", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
async def test_a_time_that_cannot_be_is_the_oldest_one(store: BlobStore, way: FaultyWay, time: str) -> None:
    way.add(Fault(fits=is_list, answer=page(one(time=time))))
    (blob,) = [blob async for blob in store.list()]
    assert blob.modified_at.timestamp() == 0


@pytest.mark.parametrize("time", ["yesterday", "Fri, 31 Dec 9999 23:59:59 -2300"])
async def test_an_object_whose_headers_make_no_sense_is_an_error(
    store: BlobStore, way: FaultyWay, time: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nLast-Modified: {time}\r\nConnection: close\r\n\r\n"
    way.add(Fault(fits=is_method("HEAD"), answer=head.encode()))
    with pytest.raises(Unavailable) as caught:
        await store.stat(BLOB)
    assert "S3" in caught.value.hint


async def test_of_an_answer_that_is_too_long_the_end_is_not_taken(options: S3StoreOptions) -> None:
    """A service that sends more than it was asked for could fill the memory."""
    sent = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "list-type" in head:
            writer.write(page(""))
        else:
            writer.write(b"HTTP/1.1 206 x\r\nContent-Length: %d\r\n" % (256 * MIB))
            writer.write(
                b"Content-Range: bytes 0-0/3\r\nLast-Modified: Fri, 24 May 2013 00:00:00 GMT\r\n\r\n"
            )
            pieces = 0
            with suppress(OSError):
                while pieces < 256:
                    writer.write(bytes(MIB))
                    await writer.drain()
                    pieces += 1
            sent.set_result(pieces)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with open_s3_store(replace(options, endpoint=endpoint, retries=0)) as store:
        with pytest.raises(Unavailable):
            await store.read(BLOB, [ByteRange(0, 1)])
        assert await sent < 256
    server.close()
