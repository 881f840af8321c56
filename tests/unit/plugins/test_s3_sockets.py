"""A store in a bucket that is closed has no sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from imsd_s3 import sockets as sockets_module
from imsd_s3.options import S3StoreOptions
from imsd_s3.store import open_s3_store

from tests.seaweedfs import ADMIN
from tests.web_server import make_certificate

EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(EMPTY)
ANSWERS = {
    "kept": HEAD + b"\r\n" + EMPTY,
    "closed": HEAD + b"Connection: close\r\n\r\n" + EMPTY,
}


@asynccontextmanager
async def tls_service(pem: Path, answer: bytes) -> AsyncIterator[int]:
    """An empty bucket over TLS; yields its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("connections", ANSWERS)
async def test_a_store_that_is_closed_has_no_socket(tmp_path: Path, connections: str) -> None:
    """Those of TLS say goodbye first."""
    pem = make_certificate(tmp_path)
    async with tls_service(pem, ANSWERS[connections]) as port:
        options = S3StoreOptions(
            bucket="images",
            endpoint=f"https://localhost:{port}",
            ca_file=pem,
            keys_file=ADMIN.write(tmp_path / "keys"),
            stale_upload_hours=0.0,
        )
        async with open_s3_store(options) as store:
            assert [blob async for blob in store.list()] == []
        found = psutil.Process().net_connections("tcp")
        assert [each for each in found if each.raddr and each.raddr.port == port] == []


async def test_a_socket_that_does_not_close_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets_module, "CLOSING_SECONDS", 0.02)
    sockets = sockets_module.Sockets()
    with sockets.make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))):
        await sockets.wait_closed()
    await sockets.wait_closed()
