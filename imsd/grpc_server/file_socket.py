"""The socket on which clients of this machine hand over open files, beside a daemon's own unix socket.

Its name is that of the other with ``.files`` behind it, its mode and group are the same. A client connects
(SOCK_SEQPACKET) and sends one packet: `MAGIC`, a token of 32 bytes, and with it one descriptor
(SCM_RIGHTS, see unix(7)). The answer is one packet: `TAKEN`, or a sentence that says why not.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

import structlog

from imsd.contract import ImsError
from imsd.core.handed_files import HandedFiles

log = structlog.get_logger(__name__)

SUFFIX = ".files"
MAGIC = b"imsd-file-1"
TAKEN = b"taken"

MAX_PACKET_BYTES = 64
# Whoever connects hands a file over, or goes.
PATIENCE_SECONDS = 5.0
MAX_CONNECTIONS = 64


class FileSocket:
    """Takes files for ``files`` on a socket at ``path``, which somebody else made sure is free."""

    def __init__(self, path: str, files: HandedFiles) -> None:
        self.path = path
        self._files = files
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, asyncio.TimerHandle] = {}

    def bind(self) -> None:
        """Take the path; nothing is answered before `start`. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.setblocking(False)
            listener.bind(self.path)
            listener.listen(MAX_CONNECTIONS)
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def start(self) -> None:
        assert self._listener
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def close(self) -> None:
        """End all connections and remove the socket."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        for connection in list(self._connections):
            self._end(connection)
        self._listener.close()
        self._listener = None
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:  # the client is gone again, or there are no descriptors left
            log.warning("a file cannot be handed over", error=str(error))
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        self._connections[connection] = loop.call_later(PATIENCE_SECONDS, self._end, connection)
        loop.add_reader(connection, self._receive, connection)

    def _receive(self, connection: socket.socket) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(connection, MAX_PACKET_BYTES, 1)
            answer = self._answer(packet, fds)
        except OSError as error:
            answer = str(error).encode()
        with suppress(OSError):
            connection.send(answer)
        self._end(connection)

    def _answer(self, packet: bytes, fds: list[int]) -> bytes:
        if not packet.startswith(MAGIC) or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            return b"one packet with a token and one descriptor is expected"
        os.set_inheritable(fds[0], False)
        try:
            self._files.put(packet.removeprefix(MAGIC), fds[0])
        except ImsError as error:
            return f"{error.message} [{error.reason}]".encode()
        return TAKEN

    def _end(self, connection: socket.socket) -> None:
        self._connections.pop(connection).cancel()
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
