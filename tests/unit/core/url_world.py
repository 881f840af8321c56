"""Fetching from a web server of the test's own: what is fetched, how it is made to fail, where names lead."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from typing import Any

import pytest

from imsd.contract import ImsError
from imsd.core.feeds import OpenedFeed
from imsd.core.opened_url import open_url
from imsd.core.url_client import UrlClient
from imsd.core.url_settings import UrlLimits
from tests.web_server import Fault, Reply

PIECE = 64 << 10
CONTENT = random.Random(1).randbytes(20 * PIECE + 77)
QUICK = UrlLimits(
    piece_bytes=PIECE, connect_seconds=5, stall_seconds=0.3, retry_seconds=3, pause_seconds=0.01
)
LOOPBACK = ("127.0.0.0/8", "::1")

OpenClient = Callable[..., Any]


async def read(opened: OpenedFeed) -> bytes:
    content = bytearray()
    async with aclosing(opened.steps()) as steps:
        async for step in steps:
            assert isinstance(step, bytes | bytearray | memoryview)
            content += step
    return bytes(content)


def opening(client: UrlClient, url: str, offset: int = 0) -> AbstractAsyncContextManager[OpenedFeed]:
    return open_url(client, client.policy.check(url), offset)


async def fetch(client: UrlClient, url: str, offset: int = 0) -> bytes:
    async with opening(client, url, offset) as opened:
        return await read(opened)


async def failure(client: UrlClient, url: str, offset: int = 0) -> ImsError:
    with pytest.raises(ImsError) as failed:
        await fetch(client, url, offset)
    return failed.value


def cut(after: int) -> Fault:
    return lambda reply: replace(reply, cut_after=after)


def stall(after: int) -> Fault:
    return lambda reply: replace(reply, stall_after=after)


def status(number: int) -> Fault:
    return lambda reply: Reply(number)


def headers(**changed: str | None) -> Fault:
    return lambda reply: reply.with_headers(**changed)


def resolve_to(
    monkeypatch: pytest.MonkeyPatch, *answers: list[str], error: OSError | None = None
) -> list[str]:
    """Let each look-up of a name give the next of ``answers``, the last one for ever; returns the names."""
    asked: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        if error:
            raise error
        addresses = answers[min(len(asked), len(answers)) - 1]
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked
