"""What is special to a store in a bucket: its options, keys, errors, foreign objects and stale uploads."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from imsd_s3 import connection as connection_module
from imsd_s3 import ingest as ingest_module
from imsd_s3 import objects, stale_uploads
from imsd_s3.connection import opened_connection
from imsd_s3.ingest import RunningUploads
from imsd_s3.keys import AccessKey, read_key
from imsd_s3.options import S3BucketOptions, S3StoreOptions
from imsd_s3.signing import signed_headers
from imsd_s3.stale_uploads import remove_stale_uploads
from imsd_s3.store import open_s3_store

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    ByteRange,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    MissingLibrary,
    Unavailable,
)
from tests.faulty_way import Fault, faulty_way, status_answer
from tests.seaweedfs import ADMIN, READER, S3Key, SeaweedFS
from tests.web_server import make_certificate

MIB = 1 << 20
BLOB = BlobId("packs/0a/0a11")


@pytest.fixture
def options(seaweedfs: SeaweedFS, s3_bucket: str, tmp_path: Path) -> S3StoreOptions:
    return S3StoreOptions(
        bucket=s3_bucket,
        endpoint=seaweedfs.endpoint,
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


async def refused(options: S3StoreOptions) -> ImsError:
    """How the store does not open."""
    with pytest.raises(ImsError) as caught:
        async with open_s3_store(options):
            pass
    assert caught.value.hint
    assert ADMIN.secret_key not in f"{caught.value!r} {caught.value.hint}"
    return caught.value


def test_the_signature_is_that_of_the_example_of_aws() -> None:
    """GET Object, in "Authenticating Requests: Using the Authorization Header"."""
    key = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    signed = signed_headers(
        "GET",
        ("examplebucket.s3.amazonaws.com", "/test.txt", ""),
        {"range": "bytes=0-9", "x-amz-content-sha256": empty},
        key,
        "us-east-1",
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    expected = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    assert signed["authorization"].endswith(f"Signature={expected}")


GOOD: dict[str, Any] = {"bucket": "images", "endpoint": "https://s3.example.org"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bucket", ""),
        ("bucket", "two words"),
        ("bucket", "a/b"),
        ("bucket", "../b"),
        ("endpoint", "s3.example.org"),
        ("endpoint", "ftp://s3.example.org"),
        ("endpoint", "https://s3.example.org/path"),
        ("endpoint", "https://user:pass-word@s3.example.org"),
        ("endpoint", "https://:pass-word@s3.example.org"),
        ("endpoint", "https://@s3.example.org"),
        ("endpoint", "https://[::1"),
        ("endpoint", "https://[1.2.3:4]"),
        ("endpoint", "https://s3 example.org"),
        ("endpoint", "https://s3.example.org#"),
        ("endpoint", "https://s3.example.org?"),
        ("endpoint", "https://s3.exämple.org"),
        ("endpoint", "https://"),
        ("endpoint", "https://s3.example.org:99999"),
        ("endpoint", "http://s3.example.org"),
        ("prefix", "/images"),
        ("prefix", "images/"),
        ("prefix", "../images"),
        ("prefix", "a" * 800),
        ("prefix", "a" * 300 + "/../b"),
        ("s3_region", "eu west"),
        ("part_bytes", 1),
        ("part_bytes", 1 << 40),
        ("parts_at_once", 0),
        ("requests_at_once", 0),
        ("retries", -1),
        ("stall_seconds", 0.0),
        ("request_seconds", 0.0),
        ("connect_seconds", -1.0),
        ("retry_seconds", -1.0),
        ("stale_upload_hours", -1.0),
        ("stall_seconds", float("nan")),
        ("systemd_keys", "../keys"),
    ],
)
def test_an_option_that_cannot_be_is_named(key: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        S3StoreOptions(**{**GOOD, key: value})
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert caught.value.field == key
    assert "pass-word" not in caught.value.message


@pytest.mark.parametrize(
    "endpoint",
    ["https://S3.example.org:443/", "https://192.0.2.1", "https://[2001:db8::1]:8333", "https://a_b"],
)
def test_an_endpoint_may_have_every_name_of_a_host(endpoint: str) -> None:
    S3StoreOptions(bucket="images", endpoint=endpoint)


def test_two_places_for_a_key_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest):
        S3StoreOptions(**GOOD, keys_file=Path("/keys"), systemd_keys="keys")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_without_tls_this_machine_is_near_enough(host: str) -> None:
    S3StoreOptions(bucket="images", endpoint=f"http://{host}:8333")
    S3StoreOptions(bucket="images", endpoint="http://s3.example.org", allow_http=True)


def test_a_host_cannot_have_every_name_of_a_bucket() -> None:
    S3StoreOptions(**GOOD, path_style=False)
    with pytest.raises(InvalidRequest):
        S3StoreOptions(**{**GOOD, "bucket": "a.b"}, path_style=False)


def test_a_bucket_has_uploads_of_others() -> None:
    assert S3BucketOptions(**GOOD).stale_upload_hours == 0
    assert S3StoreOptions(**GOOD).stale_upload_hours > 0


def test_keys_come_from_the_file_the_credential_or_the_environment(tmp_path: Path) -> None:
    path = ADMIN.write(tmp_path / "keys")
    key = read_key(S3StoreOptions(**GOOD, keys_file=path), {})
    assert (key.id, key.secret, key.token) == (ADMIN.access_key, ADMIN.secret_key, "")
    assert ADMIN.secret_key not in repr(key)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_key(S3StoreOptions(**GOOD, systemd_keys="keys"), environment) == key
    assert read_key(S3StoreOptions(**GOOD), ADMIN.environment) == key
    token = read_key(S3StoreOptions(**GOOD), {**ADMIN.environment, "AWS_SESSION_TOKEN": "t"})
    assert token.token == "t"
    assert "'t'" not in repr(token)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a-secret-of-an-admin-0123456789",
        b"[other]\naws_access_key_id = a\naws_secret_access_key = b\n",
        b"[default]\naws_access_key_id = a\n",
        b"[default]\naws_access_key_id = a b\naws_secret_access_key = b\n",
        b"\xff\xfe",
    ],
)
def test_a_file_that_has_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        read_key(S3StoreOptions(**GOOD, keys_file=path), {})
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert caught.value.hint
    assert ADMIN.secret_key not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"


def test_a_file_of_keys_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = ADMIN.write(tmp_path / "keys")
    path.chmod(0o644)
    with pytest.raises(InvalidRequest) as caught:
        read_key(S3StoreOptions(**GOOD, keys_file=path), {})
    assert "chmod" in caught.value.hint


def test_a_pipe_is_no_file_of_keys_and_nobody_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    with pytest.raises(InvalidRequest) as caught:
        read_key(S3StoreOptions(**GOOD, keys_file=path), {})
    assert "plain file" in caught.value.message


@pytest.mark.parametrize("options", [S3StoreOptions(**GOOD), S3StoreOptions(**GOOD, systemd_keys="keys")])
def test_no_key_at_all_says_where_one_may_be(options: S3StoreOptions) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_key(options, {})
    assert caught.value.hint


@pytest.mark.parametrize(
    "key", [S3Key("imsd-test-nobody", "secret"), S3Key(ADMIN.access_key, "a-wrong-secret")]
)
async def test_a_wrong_key_is_told(options: S3StoreOptions, tmp_path: Path, key: S3Key) -> None:
    error = await refused(replace(options, keys_file=key.write(tmp_path / "wrong")))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "STORE_DENIED"
    assert "key" in error.hint
    assert key.secret_key not in error.message or key.secret_key == "secret"


async def test_a_bucket_that_is_missing_is_told(options: S3StoreOptions) -> None:
    error = await refused(replace(options, bucket="no-such-bucket"))
    assert isinstance(error, InvalidRequest)
    assert (error.reason, error.field) == ("INVALID_CONFIGURATION", "bucket")


async def test_a_key_that_may_only_read_is_told_when_it_writes(
    options: S3StoreOptions, store: BlobStore, tmp_path: Path
) -> None:
    await put(store, b"content")
    reader = replace(options, keys_file=READER.write(tmp_path / "reader"))
    async with open_s3_store(reader) as reading:
        assert await reading.read(BLOB, [ByteRange(0, 7)]) == [b"content"]
        calls: list[Callable[[], Any]] = [
            lambda: put(reading, b"short", "short"),
            lambda: put(reading, bytes(6 * MIB), "long"),
            lambda: reading.delete(BLOB),
        ]
        for call in calls:
            with pytest.raises(FailedPrecondition) as caught:
                await call()
            assert caught.value.reason == "STORE_READ_ONLY"
            assert caught.value.hint


async def test_clocks_that_differ_are_told(options: S3StoreOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(hours=2)

    monkeypatch.setattr(connection_module, "datetime", Late)
    error = await refused(options)
    assert (type(error), error.reason) == (Unavailable, "STORE_UNAVAILABLE")
    assert "clock" in error.hint


async def test_an_endpoint_where_nothing_listens_is_told(options: S3StoreOptions) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error = await refused(replace(options, endpoint=endpoint))
    assert error.reason == "STORE_UNAVAILABLE"
    assert "endpoint" in error.hint
    assert "127.0.0.1" not in error.message  # which users read, too
    error = await refused(replace(options, endpoint="https://no-such-host.invalid"))
    assert error.reason == "STORE_UNAVAILABLE"
    assert "name" in error.hint
    assert "no-such-host" not in error.message


@asynccontextmanager
async def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that says always the same; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_what_is_no_s3_service_is_told(options: S3StoreOptions, answer: bytes) -> None:
    async with answering(answer) as port:
        error = await refused(replace(options, endpoint=f"http://127.0.0.1:{port}"))
    assert error.reason == "STORE_UNAVAILABLE"
    assert "S3" in error.hint


async def test_a_certificate_that_is_not_trusted_is_told(options: S3StoreOptions, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    pem = make_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    listed = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(listed) + listed
    async with answering(answer, context) as port:
        untrusting = replace(options, endpoint=f"https://localhost:{port}")
        error = await refused(untrusting)
        assert error.reason == "STORE_UNAVAILABLE"
        assert "ca_file" in error.hint
        with_remarks = tmp_path / "authorities.pem"
        with_remarks.write_text(f"# Főtanúsítvány\n{pem.read_text()}")
        async with open_s3_store(replace(untrusting, ca_file=with_remarks)) as store:
            assert [blob async for blob in store.list()] == []
    error = await refused(replace(options, ca_file=tmp_path / "keys"))
    assert error.field == "ca_file"


@pytest.mark.parametrize(
    ("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded"), (507, "XMinioStorageFull")]
)
async def test_a_service_that_is_full_is_told(
    options: S3StoreOptions, seaweedfs: SeaweedFS, status: int, code: str
) -> None:
    """SeaweedFS has no such answer of its own: the way says what other services do."""
    full = Fault(fits=lambda passing: passing.method == "PUT", answer=status_answer(status, code), times=None)
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(faulty_way(seaweedfs.port))
        store = await stack.enter_async_context(open_s3_store(replace(options, endpoint=way.endpoint)))
        way.add(full)
        for content in (b"short", bytes(6 * MIB)):
            with pytest.raises(LimitExceeded) as caught:
                await put(store, content)
            assert caught.value.reason == "CAPACITY_EXHAUSTED"
            assert caught.value.hint


async def test_without_the_library_the_store_is_skipped(
    options: S3StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingLibrary) as caught:
        async with open_s3_store(options):
            pass
    assert "imsd[s3]" in str(caught.value)


async def test_a_key_that_was_replaced_is_read_again(
    options: S3StoreOptions, store: BlobStore, tmp_path: Path
) -> None:
    await put(store, b"content")
    path = ADMIN.write(tmp_path / "replaced")
    async with open_s3_store(replace(options, keys_file=path)) as rotating:
        good = path.read_text()
        for call in (lambda: rotating.stat(BLOB), lambda: rotating.read(BLOB, [ByteRange(0, 7)])):
            # The present key becomes one that the service does not know.
            rotating._connection.key = AccessKey("gone", "gone")  # type: ignore[attr-defined]
            rotating._reader.use_key()  # type: ignore[attr-defined]
            await call()
        path.write_text(good.replace(ADMIN.secret_key, "wrong"))
        rotating._connection.key = AccessKey("gone", "gone")  # type: ignore[attr-defined]
        with pytest.raises(FailedPrecondition):
            await rotating.delete(BLOB)


async def test_objects_of_others_are_blobs_if_their_names_are_ids(
    options: S3StoreOptions, store: BlobStore
) -> None:
    async with opened_connection(options) as connection:

        async def done() -> bool:
            return False

        for key in ("two words.raw", "folder/", ".hidden/file", "good/one.raw", "ü", "a&b<c>"):
            await objects.put(connection, objects.Commit(key, {}, done), bytearray(b"x"), {})
    assert [blob.id async for blob in store.list()] == ["good/one.raw"]
    assert await store.read(BlobId("good/one.raw"), [ByteRange(0, 1)]) == [b"x"]


async def test_a_service_without_conditions_refuses_what_is_there(
    options: S3StoreOptions, store: BlobStore
) -> None:
    await put(store, b"first")
    async with open_s3_store(replace(options, put_if_absent=False)) as plain:
        assert not plain.capabilities.put_if_absent
        with pytest.raises(AlreadyExists):
            await put(plain, b"second")
        await put(plain, b"other", "other")
    assert await store.read(BLOB, [ByteRange(0, 5)]) == [b"first"]


async def test_stale_uploads_of_the_prefix_are_removed_and_no_others(
    options: S3StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = replace(options, prefix="mine", stale_upload_hours=0.0001)
    async with opened_connection(mine) as connection:
        for key in ("mine/stale", "mine/running", "mine-not/stale", "other/stale"):
            await objects.begin_upload(connection, key, {})
        uploads, _ = await objects.list_uploads(connection, "", None)
        running = RunningUploads()
        running.ids = {each.id for each in uploads if each.key == "mine/running"}
        await asyncio.sleep(1.5)  # the service knows when an upload began to the second
        assert await remove_stale_uploads(connection, running) == 1
        left, _ = await objects.list_uploads(connection, "", None)
        assert {each.key for each in left} == {"mine/running", "mine-not/stale", "other/stale"}
    # Opening the store does the same, and goes on doing it.
    monkeypatch.setattr(stale_uploads, "PAUSE_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_s3_store(mine))
        connection = await stack.enter_async_context(opened_connection(options))
        ingest = await stack.enter_async_context(store.begin(BLOB))
        await ingest.write([bytes(6 * MIB)])  # an upload of its own that runs
        while any(each.key == "mine/running" for each in await _uploads(connection)):
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)
        assert f"mine/{BLOB}" in {each.key for each in await _uploads(connection)}
        await ingest.commit()


async def _uploads(connection: connection_module.Connection) -> list[objects.Upload]:
    return (await objects.list_uploads(connection, "", None))[0]


async def test_an_ingest_that_is_left_leaves_no_upload(options: S3StoreOptions, store: BlobStore) -> None:
    async with store.begin(BLOB) as ingest:
        await ingest.write([bytes(12 * MIB)])
    async with opened_connection(options) as connection:
        assert await _uploads(connection) == []


@pytest.mark.parametrize("turns", range(6))
async def test_an_ingest_that_is_cancelled_when_its_upload_begins_leaves_none(
    options: S3StoreOptions, store: BlobStore, turns: int
) -> None:
    async def write() -> None:
        async with store.begin(BLOB) as ingest:
            await ingest.write([bytes(6 * MIB)])

    writing = asyncio.create_task(write())
    for _ in range(turns):
        await asyncio.sleep(0.001)
    writing.cancel()
    await asyncio.wait([writing])
    async with opened_connection(options) as connection:
        assert await _uploads(connection) == []


async def test_a_long_blob_has_larger_parts_and_one_that_is_too_long_an_error(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "PARTS_OF_ONE_SIZE", 1)
    monkeypatch.setattr(ingest_module, "MAX_PARTS", 2)
    content = random.Random(31).randbytes(25 * MIB)  # a part of 5 MiB and one of 20
    await put(store, content)
    assert await store.read(BLOB, [ByteRange(0, len(content))]) == [content]
    with pytest.raises(LimitExceeded) as caught:
        await put(store, bytes(46 * MIB), "longer")
    assert caught.value.reason == "CAPACITY_EXHAUSTED"
    assert "part_bytes" in caught.value.hint


async def test_the_environment_of_the_programs_of_aws_changes_nothing(
    options: S3StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "another",
        "AWS_SECRET_ACCESS_KEY": "another",
        "AWS_SESSION_TOKEN": "another",
        "AWS_REGION": "mars-north-1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setitem(os.environ, name, value)
    async with open_s3_store(options) as store:
        await put(store, b"content")
        assert await store.read(BLOB, [ByteRange(0, 7)]) == [b"content"]
