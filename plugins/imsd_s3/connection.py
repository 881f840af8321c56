"""Requests to an S3 service that change or list something: signed, watched, retried.

Reading goes through obstore (`reading.py`). It cannot do the rest: it completes an upload in parts without a
condition (apache/arrow-rs-object-store#289), neither lists nor aborts such uploads, and a list ends with an
error at the first key that is no path of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yarl import URL

from imsd.contract import ImsError, InvalidRequest, run_blocking

from .failures import CUT, NO_CONNECTION, NO_NAME, NO_S3, NO_TRUST, STALLED, Failure, failure_of, plain
from .keys import AccessKey, read_key
from .options import S3StoreOptions, is_loopback
from .retrying import Retrying
from .signing import UNSIGNED, quoted_path, quoted_query, signed_headers
from .sockets import Sockets

# Of an answer: a page of a list has about 400 KiB.
MAX_ANSWER_BYTES: Final = 16 << 20

# Sent at a time; how fast a body goes is seen after each.
PIECE_BYTES: Final = 256 << 10

# While connections are unused, they are kept so long.
KEEPALIVE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``key``: of the object, None for the bucket; ``subject``: what messages call it.

    ``may_pause``: the service may take its time without a byte (it puts an object together).
    ``is_done``: asked before it is sent again; when it says yes, only the answer was lost.
    """

    method: str
    subject: str
    key: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | bytearray = b""
    may_pause: bool = False
    is_done: Callable[[], Awaitable[bool]] | None = None

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Answer:
    """A success."""

    headers: Mapping[str, str]
    body: bytes


class Connection:
    """The service of one store. Use `opened_connection`."""

    def __init__(
        self, options: S3StoreOptions, key: AccessKey, session: aiohttp.ClientSession, authorities: bytes
    ) -> None:
        self.options = options
        self.key = key
        self.authorities = authorities  # in PEM, those of `ca_file`
        self.retrying = Retrying(options)
        self._session = session
        self._refresh = asyncio.Lock()
        parts = urlsplit(options.url)
        self._scheme, self._host, self._root = parts.scheme, parts.netloc, f"/{options.bucket}"
        if not options.path_style:
            self._host, self._root = f"{options.bucket}.{parts.netloc}", ""
        self._signs_bodies = parts.scheme == "http" and not is_loopback(parts.hostname or "")
        self.proxy = _proxy_of(parts.scheme, parts.hostname or "")

    async def send(self, request: Request, retries: int | None = None) -> Answer:
        """The answer to ``request``, tried again if that may help. Raises the error of imsd."""
        try:
            return await self.try_send(request, retries)
        except Failure as failure:
            raise failure.as_error(request.subject, is_write=request.is_write) from None

    async def try_send(self, request: Request, retries: int | None = None) -> Answer:
        """As `send`, but raises the `Failure`."""
        used, attempts = self.key, 0

        async def attempt() -> Answer:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and request.is_done and await request.is_done():
                return Answer({}, b"")
            return await self._attempt(request)

        try:
            return await self.retrying.call(attempt, retries)
        except Failure as failure:
            if not failure.is_about_keys or not await self.has_new_key(used):
                raise
        return await self.retrying.call(attempt, retries)

    async def has_new_key(self, refused: AccessKey) -> bool:
        """Whether there is another key than the one that was ``refused``; it is used from now on."""
        async with self._refresh:
            if self.key == refused:
                try:
                    self.key = await run_blocking(read_key, self.options)
                except ImsError:  # the refusal says more
                    return False
            return self.key != refused

    async def _attempt(self, request: Request) -> Answer:
        options = self.options
        stall = options.request_seconds if request.may_pause else options.stall_seconds
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(options.request_seconds), asyncio.timeout(stall) as moving:
                return await self._exchange(request, lambda: moving.reschedule(loop.time() + stall))
        except aiohttp.ServerTimeoutError:
            said = f"no connection to the service within {options.connect_seconds:g} seconds"
            raise Failure(NO_CONNECTION, said) from None
        except TimeoutError:
            waited = (
                f"no byte for {stall:g}" if moving.expired() else f"not done in {options.request_seconds:g}"
            )
            raise Failure(STALLED, f"the service is stuck: {waited} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure_of_way(error) from None

    async def _exchange(self, request: Request, moved: Callable[[], None]) -> Answer:
        url, headers = await self._signed(request)
        body = _Body(request.body, moved) if request.body else None
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False, proxy=self.proxy
        ) as response:
            moved()
            found = bytearray()
            async for piece in response.content.iter_any():
                moved()
                found += piece
                if len(found) > MAX_ANSWER_BYTES:
                    raise Failure(NO_S3, "an answer is too long")
            text = found[: 64 << 10].decode("utf-8", "replace")
            # Putting an object together is answered with 200 before it is known how it ends.
            if not 200 <= response.status < 300 or "<Error>" in text[:500]:
                raise failure_of(response.status, text)
            return Answer(response.headers, bytes(found))

    async def _signed(self, request: Request) -> tuple[URL, dict[str, str]]:
        path = quoted_path(self._root + ("/" + request.key if request.key is not None else "")) or "/"
        query = quoted_query(request.query)
        digest = UNSIGNED
        if self._signs_bodies or not request.body:
            digest = await _sha256(request.body)
        headers = {**request.headers, "x-amz-content-sha256": digest}
        place = (self._host, path, query)
        signed = signed_headers(
            request.method, place, headers, self.key, self.options.s3_region, datetime.now(UTC)
        )
        if request.method in ("PUT", "POST"):
            signed["content-length"] = str(len(request.body))
        return URL(f"{self._scheme}://{self._host}{path}{'?' + query if query else ''}", encoded=True), signed


@asynccontextmanager
async def opened_connection(options: S3StoreOptions) -> AsyncIterator[Connection]:
    """Raises InvalidRequest (INVALID_CONFIGURATION). Nothing is sent yet."""
    key = await run_blocking(read_key, options)
    authorities = await run_blocking(_authorities, options)
    trusted = await run_blocking(_trusting, authorities)
    timeouts = aiohttp.ClientTimeout(total=None, sock_connect=options.connect_seconds)
    sockets = Sockets()
    connector = aiohttp.TCPConnector(
        limit=0, ssl=trusted, keepalive_timeout=KEEPALIVE_SECONDS, socket_factory=sockets.make
    )
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeouts,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=["Content-Type"],
            headers={"User-Agent": "imsd"},
        ) as session:
            yield Connection(options, key, session, authorities)
    finally:
        await sockets.wait_closed()


class _Body(Payload):
    """The body of a request, sent in pieces; it may be sent again."""

    def __init__(self, content: bytes | bytearray, moved: Callable[[], None]) -> None:
        super().__init__(content, content_type="application/octet-stream")
        self._size = len(content)
        self._moved = moved

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        content = memoryview(self._value)[:content_length]
        for start in range(0, len(content), PIECE_BYTES):
            await writer.write(content[start : start + PIECE_BYTES])
            self._moved()


async def _sha256(body: bytes | bytearray) -> str:
    def digest() -> str:
        return hashlib.sha256(body).hexdigest()

    return digest() if len(body) < PIECE_BYTES else await run_blocking(digest)


def _failure_of_way(error: Exception) -> Failure:
    """Of what kept a request from being answered. Users read it too: it names no address."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        why: Any = getattr(error, "certificate_error", None) or error.__cause__ or error
        said = getattr(why, "verify_message", "") or getattr(why, "reason", "") or "TLS failed"
        return Failure(NO_TRUST, f"its certificate, or its TLS, is not trusted: {plain(str(said))}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure(NO_NAME, "the name of its host is not known")
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        why = os.strerror(cause.errno) if cause.errno else type(cause).__name__
        return Failure(NO_CONNECTION, f"no connection to the service: {why}")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | ConnectionError):
        return Failure(CUT, "the connection broke before the answer was there")
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return Failure(NO_S3, "the answer is not one of S3")
    return Failure(CUT, f"the request failed: {type(error).__name__}")


def _authorities(options: S3StoreOptions) -> bytes:
    try:
        return options.ca_file.read_bytes() if options.ca_file else b""
    except OSError as error:
        raise _wrong_authorities(f"cannot be read: {error.strerror}") from None


def _trusting(authorities: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities:
        try:
            # Between certificates there are remarks, in any language.
            context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise _wrong_authorities("has no certificates in PEM") from None
    return context


def _wrong_authorities(what: str) -> InvalidRequest:
    hint = "it must be a file of certificates: -----BEGIN CERTIFICATE-----"
    return InvalidRequest(f"ca_file {what}", reason="INVALID_CONFIGURATION", field="ca_file", hint=hint)


def _proxy_of(scheme: str, host: str) -> str | None:
    """The proxy that the environment names, as for obstore."""
    return None if is_loopback(host) or proxy_bypass(host) else getproxies().get(scheme)
