"""Servers that nobody answers for: gone, not trusted, or of another protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imsd.contract import InvalidRequest, Unavailable
from imsd.core.url_client import UrlClient
from tests.unit.core.url_world import (
    CONTENT,
    QUICK,
    OpenClient,
    failure,
    resolve_to,
)
from tests.web_server import Reply, WebFile, WebServer


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port where all that comes is answered with ``reply``, and what came at each attempt."""
    attempts: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(await reader.read(4096))
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], attempts


async def test_a_server_that_does_not_recover_is_given_up(web: WebServer, open_client: OpenClient) -> None:
    client = await open_client(replace(QUICK, retry_seconds=0.2))
    failed = await failure(client, web.offer("/disk", lambda seen: Reply(503)))
    assert failed.reason == "URL_UNREACHABLE"
    assert "status 503" in failed.message
    assert len(web.seen) >= 3


async def test_nobody_listens(open_client: OpenClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = await open_client(replace(QUICK, retry_seconds=0.1), ports=[port])
    assert (await failure(client, f"https://127.0.0.1:{port}/disk")).reason == "URL_UNREACHABLE"


async def test_a_name_that_does_not_exist_is_told_at_once(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, error=socket.gaierror(socket.EAI_NONAME, "not known"))
    failed = await failure(await open_client(), "https://nowhere.test/disk")
    assert failed.reason == "URL_UNREACHABLE"
    assert "no such host" in failed.message


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    web: WebServer, open_client: OpenClient
) -> None:
    failed = await failure(await open_client(ca_file=None), web.offer("/disk", WebFile(CONTENT)))
    assert failed.reason == "URL_UNREACHABLE"
    assert "certificate" in failed.message
    assert not web.seen


async def test_a_certificate_for_another_host_is_refused(
    web: WebServer, client: UrlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    failed = await failure(client, f"https://other.test:{web.port}/disk")
    assert "certificate" in failed.message
    assert not web.seen


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.test\r\n"])
async def test_a_server_that_does_not_speak_tls_is_told_at_once(
    open_client: OpenClient, reply: bytes
) -> None:
    async with answering(reply) as (port, attempts):
        failed = await failure(await open_client(ports=[port]), f"https://127.0.0.1:{port}/disk")
    assert isinstance(failed, Unavailable)
    assert failed.reason == "URL_UNREACHABLE"
    assert "TLS" in failed.message
    assert "http://" in failed.hint
    assert len(attempts) == 1


async def test_a_connection_that_is_cut_before_tls_is_agreed_on_is_tried_again(
    open_client: OpenClient,
) -> None:
    async with answering(b"") as (port, attempts):
        client = await open_client(replace(QUICK, retry_seconds=0.2), ports=[port])
        failed = await failure(client, f"https://127.0.0.1:{port}/disk")
    assert failed.reason == "URL_UNREACHABLE"
    assert len(attempts) >= 2


async def test_certificates_that_cannot_be_read_are_a_mistake_of_the_configuration(
    open_client: OpenClient, tmp_path: Path
) -> None:
    for content in (None, "no certificate"):
        path = tmp_path / "ca.pem"
        if content:
            path.write_text(content)
        with pytest.raises(InvalidRequest) as refused:
            await open_client(ca_file=path)
        assert refused.value.reason == "INVALID_CONFIGURATION"
