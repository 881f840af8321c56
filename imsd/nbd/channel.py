"""One client's socket: what is read is bounded, what is sent is not copied, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from imsd.contract import Buffer

# The kernel gives what net.core.wmem_max allows; each full buffer costs a turn of the event loop.
SEND_BUFFER_BYTES = 4 << 20

# Buffers of one call; the system takes 1024.
MAX_BUFFERS = 512

# What was not sent for so long is copied: it may be a small part of much that would stay in memory.
STALL_SECONDS = 1.0

_DISCARD_BYTES = 64 << 10


class ClientGone(Exception):
    """The client closed the connection, or it broke."""


class Channel:
    """A connected socket, which `close` closes. One task at a time sends."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._unsent: list[Buffer] = []
        self._is_closed = False

    # -- the handshake ---------------------------------------------------------------------------------

    async def read_exactly(self, length: int) -> bytes:
        """Raises `ClientGone`."""
        pieces: list[bytes] = []
        while length:
            piece = await self._receive(length)
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    async def discard(self, length: int) -> None:
        """Raises `ClientGone`."""
        while length:
            length -= len(await self._receive(min(length, _DISCARD_BYTES)))

    async def _receive(self, length: int) -> bytes:
        try:
            piece = await self._loop.sock_recv(self._socket, length)
        except OSError as error:
            raise ClientGone from error
        if not piece:
            raise ClientGone
        return piece

    # -- transmission ------------------------------------------------------------------------------------

    def start_reading(self, on_readable: Callable[[], None]) -> None:
        self._loop.add_reader(self._socket, on_readable)

    def stop_reading(self) -> None:
        if not self._is_closed:
            self._loop.remove_reader(self._socket)

    def receive_into(self, buffer: memoryview) -> int:
        """What there is, at most; 0: nothing yet. Raises `ClientGone`."""
        try:
            count = self._socket.recv_into(buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone from error
        if not count:
            raise ClientGone
        return count

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Give all ``buffers`` to the system. Raises `ClientGone`."""
        self._unsent = list(buffers)
        self._send_some()
        while self._unsent:
            await self._writable()
            self._send_some()

    async def _writable(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._socket, _wake, turn)
        stalled = self._loop.call_later(STALL_SECONDS, self._keep_no_more_than_unsent)
        try:
            await turn
        finally:
            stalled.cancel()
            if not self._is_closed:
                self._loop.remove_writer(self._socket)

    def _keep_no_more_than_unsent(self) -> None:
        self._unsent = [b"".join(self._unsent)]

    def _send_some(self) -> None:
        """Until there is nothing left, or no room."""
        while self._unsent:
            try:
                count = self._socket.sendmsg(self._unsent[:MAX_BUFFERS])
            except BlockingIOError:
                return
            except OSError as error:
                raise ClientGone from error
            self._drop(count)

    def _drop(self, count: int) -> None:
        for number, buffer in enumerate(self._unsent):
            if count < len(buffer):
                del self._unsent[:number]
                if count:
                    self._unsent[0] = memoryview(buffer)[count:]
                return
            count -= len(buffer)
        self._unsent = []

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
