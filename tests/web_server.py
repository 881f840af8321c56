"""A server of the web on loopback that can misbehave: https or http, with and without ranges.

What the next answers do is told beforehand: `Fault`s are used up one by one.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WRITE_BYTES = 64 << 10


@dataclass(frozen=True)
class Seen:
    """A request."""

    path: str
    headers: Mapping[str, str]

    @property
    def first(self) -> int | None:
        """The first byte of the range asked for."""
        found = re.match(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Reply:
    """An answer; the body is cut, or stalls, after so many bytes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    stall_after: int | None = None
    pause_seconds: float = 0.0  # before each 64 KiB

    def with_headers(self, **headers: str | None) -> Reply:
        """With these headers, underscores for dashes; None removes one."""
        merged = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return replace(self, headers={name: value for name, value in merged.items() if value is not None})


Fault = Callable[[Reply], Reply]
Page = Callable[[Seen], Reply]


@dataclass
class WebFile:
    """A file that is served; a test may change it at any time."""

    content: bytes
    etag: str = '"one"'
    has_ranges: bool = True
    is_chunked: bool = False
    obeys_if_range: bool = True

    def __call__(self, seen: Seen) -> Reply:
        headers = {"ETag": self.etag} if self.etag else {}
        if self.has_ranges:
            headers["Accept-Ranges"] = "bytes"
        is_same = not self.obeys_if_range or seen.headers.get("if-range", self.etag) == self.etag
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
        if self.has_ranges and found and is_same:
            first, last = int(found[1]), min(int(found[2]), len(self.content) - 1)
            if first >= len(self.content):
                return Reply(416, {"Content-Range": f"bytes */{len(self.content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(self.content)}"
            return Reply(206, headers, self.content[first : last + 1])
        if self.is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        return Reply(200, headers, self.content)


class WebServer:
    """``pages`` by path; ``faults`` are applied to the next answers; ``seen`` has every request."""

    def __init__(self, scheme: str, port: int) -> None:
        self.root = f"{scheme}://localhost:{port}"
        self.port = port
        self.pages: dict[str, Page] = {}
        self.faults: deque[Fault] = deque()
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._sending: set[asyncio.StreamWriter] = set()
        self.released = asyncio.Event()  # what stalls goes on

    def offer(self, path: str, page: Page) -> str:
        """Serve a page; returns its URL."""
        self.pages[path] = page
        return f"{self.root}{path}"

    def redirect(self, path: str, location: str) -> str:
        return self.offer(path, lambda seen: Reply(302, {"Location": location}))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Also when it is cut off because the test is over.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self._sending.discard(writer)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        seen = Seen(request.split(" ")[1], headers)
        self.seen.append(seen)
        self._sending.add(writer)
        self.most_at_once = max(self.most_at_once, len(self._sending))
        page = self.pages.get(seen.path.partition("?")[0])
        reply = page(seen) if page else Reply(404)
        if self.faults:
            reply = self.faults.popleft()(reply)
        writer.write(_head(reply))
        await self._send(reply, writer)

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> None:
        body = _chunked(reply.body) if "Transfer-Encoding" in reply.headers else reply.body
        end = min([len(body), *(n for n in (reply.cut_after, reply.stall_after) if n is not None)])
        for start in range(0, end, WRITE_BYTES):
            if reply.pause_seconds:
                await asyncio.sleep(reply.pause_seconds)
            if start + WRITE_BYTES >= end:
                self._sending.discard(writer)  # the client may ask again as soon as it has the last byte
            writer.write(body[start : min(start + WRITE_BYTES, end)])
            await writer.drain()
        if reply.stall_after is not None:
            await self.released.wait()
        if reply.cut_after is not None:
            writer.transport.abort()


def _head(reply: Reply) -> bytes:
    headers = {"Content-Length": str(len(reply.body)), "Connection": "close", **reply.headers}
    if "Transfer-Encoding" in headers:
        del headers["Content-Length"]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{lines}\r\n".encode()


def _chunked(body: bytes) -> bytes:
    pieces = [body[start : start + WRITE_BYTES] for start in range(0, len(body), WRITE_BYTES)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@asynccontextmanager
async def serve_web(certificate: Path | None = None) -> AsyncIterator[WebServer]:
    """Serve on a free port of 127.0.0.1; https with a certificate of `make_certificate`."""
    trust = None
    if certificate:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(certificate)
    servers: list[WebServer] = []

    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        await servers[0].answer(reader, writer)

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=trust)
    port = listening.sockets[0].getsockname()[1]
    servers.append(WebServer("https" if certificate else "http", port))
    try:
        yield servers[0]
    finally:
        servers[0].released.set()
        listening.close()
        # Or its sockets would be left to whichever test runs when the garbage collector comes.
        tasks = [task for task in answering if task and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_certificate(folder: Path) -> Path:
    """A key and a self-signed certificate for localhost and 127.0.0.1, which is its own authority too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server of a test")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.DNSName("rebound.test"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
