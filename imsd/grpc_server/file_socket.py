"""The socket on which clients of this machine hand over open files, beside a daemon's own unix socket.

Its name is that of the other with ``.files`` behind it, its mode and group are the same. A client connects
(SOCK_SEQPACKET) and sends one packet: `MAGIC`, a token of 32 bytes, and with it one descriptor
(SCM_RIGHTS, see unix(7)). The answer is one packet: `TAKEN`, or a sentence that says why not.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from imsd.contract import ImsError
from imsd.core.handed_files import HandedFile, HandedFiles

log = structlog.get_logger(__name__)

SUFFIX = ".files"
MAGIC = b"imsd-file-1"
TAKEN = b"taken"

MAX_PACKET_BYTES = 64
# Whoever connects hands a file over, or goes.
PATIENCE_SECONDS = 5.0
MAX_CONNECTIONS = 64
# Files that are looked at; one on a file system that hangs counts until it answers.
MAX_EXAMINED = 16
# When there are no descriptors left, some may be free after this long.
PAUSE_SECONDS = 1.0


class FileSocket:
    """Takes files for ``files`` on a socket at ``path``; that no other daemon uses it is known already."""

    def __init__(self, path: str, files: HandedFiles) -> None:
        self.path = path
        self._files = files
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, asyncio.TimerHandle] = {}
        self._examined = 0

    def bind(self) -> None:
        """Take the path, of a socket that a daemon left too; nothing is answered before `start`.

        Raises OSError.
        """
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.path).st_mode):
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
        if self._listener:
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
        except (BlockingIOError, ConnectionError):  # the client is gone again
            return
        except OSError as error:  # there are no descriptors left: it would be tried again at once
            log.warning("files cannot be handed over for a moment", error=str(error))
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(PAUSE_SECONDS, self.start)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        self._connections[connection] = loop.call_later(PATIENCE_SECONDS, self._end, connection)
        loop.add_reader(connection, self._receive, connection)

    def _receive(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        try:
            packet, fds, _, _ = socket.recv_fds(connection, MAX_PACKET_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            self._say(connection, str(error))
            return
        if not packet.startswith(MAGIC) or len(fds) != 1:
            _close_aside(fds)
            self._say(connection, "one packet with a token and one descriptor is expected")
        elif self._examined >= MAX_EXAMINED:
            _close_aside(fds)
            self._say(connection, f"{MAX_EXAMINED} files are being looked at")
        else:
            self._examine(connection, packet.removeprefix(MAGIC), fds[0])

    def _examine(self, connection: socket.socket, token: bytes, fd: int) -> None:
        """Look at the file in a thread of its own: it may lie where no call ever returns."""
        loop = asyncio.get_running_loop()

        def examine() -> None:
            try:
                found: HandedFile | Exception = HandedFile.examine(fd)
            except Exception as error:
                found = error
            with suppress(RuntimeError):  # the daemon ended meanwhile
                loop.call_soon_threadsafe(self._take, connection, token, found)

        try:
            _start_aside(examine)
        except RuntimeError as error:  # there are too many threads
            os.close(fd)
            self._say(connection, str(error))
        else:
            self._examined += 1

    def _take(self, connection: socket.socket, token: bytes, found: HandedFile | Exception) -> None:
        self._examined -= 1
        try:
            if isinstance(found, Exception):
                raise found
            if connection not in self._connections:  # nobody waits for the answer any more
                found.close()
                return
            self._files.put(token, found)
        except ImsError as error:
            self._say(connection, f"{error.message} [{error.reason}]")
        except Exception as error:
            log.warning("a file was not taken", error=str(error))
            self._say(connection, str(error))
        else:
            self._say(connection, TAKEN.decode())

    def _say(self, connection: socket.socket, answer: str) -> None:
        """The last word on a connection."""
        if connection in self._connections:
            with suppress(OSError):
                connection.send(answer.encode())
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self._connections.pop(connection).cancel()
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()


def _start_aside(work: Callable[[], None]) -> None:
    """Run what may never return, in a thread that does not keep the daemon from ending."""
    threading.Thread(target=work, name="imsd-aside", daemon=True).start()


def _close_aside(fds: list[int]) -> None:
    """Even closing a file may wait for its file system."""

    def close() -> None:
        for fd in fds:
            os.close(fd)

    if fds:
        _start_aside(close)
