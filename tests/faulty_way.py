"""A way to an HTTP service that misbehaves as it is told: connections break, stall, crawl, or answer for it.

A proxy on loopback. It passes each request on over a connection of its own, unchanged but for ``Connection:
close``; `Fault`s that fit a request are used up in the order they were added.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PIECE_BYTES = 64 << 10
MAX_HEAD_BYTES = 64 << 10

# See tcp_states.h of the kernel.
TCP_ESTABLISHED = 1


@dataclass(frozen=True)
class Passing:
    """A request on its way."""

    method: str
    target: str  # path and query
    length: int  # of its body


@dataclass
class Fault:
    """What happens to the next ``times`` requests that fit (None: to all), after ``skip`` of them passed.

    Counts are bytes of the body of the request, or of the whole answer.
    """

    fits: Callable[[Passing], bool] = lambda passing: True
    times: int | None = 1
    skip: int = 0
    answer: bytes = b""  # sent instead of asking the service
    cut_request_after: int | None = None
    stall_request_after: int | None = None
    cut_answer_after: int | None = None
    stall_answer_after: int | None = None
    pause_seconds: float = 0.0  # before each 64 KiB, in both directions

    def takes(self, passing: Passing) -> bool:
        if self.times == 0 or not self.fits(passing):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def status_answer(status: int, code: str, words: str = "of the test") -> bytes:
    """An error as S3 services send it."""
    body = f"<Error><Code>{code}</Code><Message>{words}</Message></Error>".encode()
    return f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@dataclass
class FaultyWay:
    """``seen``: every request; ``open_count``: connections that clients have open."""

    service_port: int
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[Passing] = field(default_factory=list)
    open_count: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, fault: Fault) -> None:
        self.faults.append(fault)

    async def becomes_quiet(self) -> None:
        """Wait until no client has a connection open, as it must be when nothing runs any more."""
        while self.open_count:
            await asyncio.sleep(0.01)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_count += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_on(reader, writer)
        finally:
            self.open_count -= 1
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode("latin-1").split(" ", 2)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        passing = Passing(method, target, int(length[1]) if length else 0)
        self.seen.append(passing)
        fault = next((each for each in self.faults if each.takes(passing)), Fault())
        if fault.answer:
            await self._drain_body(reader, passing.length)
            # To HEAD nobody gives a body.
            writer.write(
                fault.answer.split(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else fault.answer
            )
            await writer.drain()
            return
        service_reader, service_writer = await asyncio.open_connection("127.0.0.1", self.service_port)
        try:
            closing = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
            service_writer.write(closing[:-2] + b"Connection: close\r\n\r\n")
            asked = _Relay(reader, service_writer, fault.cut_request_after, fault.stall_request_after, fault)
            if not await asked.run(passing.length):
                if fault.stall_request_after is not None:
                    await _hung_up(writer)
                return
            answered = _Relay(service_reader, writer, fault.cut_answer_after, fault.stall_answer_after, fault)
            if not await answered.run(None):
                await service_reader.read()  # the service has done what it was asked
                if fault.stall_answer_after is not None:
                    await _hung_up(writer)
        finally:
            service_writer.close()

    async def _drain_body(self, reader: asyncio.StreamReader, length: int) -> None:
        left = length
        while left and (piece := await reader.read(min(left, PIECE_BYTES))):
            left -= len(piece)


@dataclass
class _Relay:
    """One direction of a request."""

    source: asyncio.StreamReader
    target: asyncio.StreamWriter
    cut_after: int | None
    stall_after: int | None
    fault: Fault

    async def run(self, length: int | None) -> bool:
        """Pass ``length`` bytes on, or all there are; False when the fault came first."""
        ends = [each for each in (length, self.cut_after, self.stall_after) if each is not None]
        end, passed = min(ends, default=None), 0
        while end is None or passed < end:
            piece = await self.source.read(PIECE_BYTES if end is None else min(PIECE_BYTES, end - passed))
            if not piece:
                break
            await asyncio.sleep(self.fault.pause_seconds)
            self.target.write(piece)
            await self.target.drain()
            passed += len(piece)
        return self.cut_after is None and self.stall_after is None


async def _hung_up(writer: asyncio.StreamWriter) -> None:
    """Wait until the client closed its end, and read nothing of what it sends."""
    connection = writer.get_extra_info("socket")
    while connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED:
        await asyncio.sleep(0.01)


@asynccontextmanager
async def faulty_way(service_port: int) -> AsyncIterator[FaultyWay]:
    way = FaultyWay(service_port)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await way.serve(reader, writer)
        except asyncio.CancelledError:  # asyncio's server would report it
            pass
        finally:
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        if serving:
            await asyncio.wait(list(serving))
