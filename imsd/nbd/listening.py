"""A unix socket in the file system that accepts connections, and is gone when it is closed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MAX_SOCKET_PATH = 107

BACKLOG = 64
# Accepted in one turn of the loop; others have theirs in between.
AT_ONCE = 16
# When there are no descriptors left, some may be free after this long.
PAUSE_SECONDS = 0.5


class Listening:
    """Gives each connection to ``accepted``. A socket that a killed process left at ``path`` is replaced.

    ``group``: its number, -1 for none. Blocks a moment. Raises OSError, also when somebody listens there.
    """

    def __init__(self, path: Path, mode: int, group: int, accepted: Callable[[socket.socket], None]) -> None:
        self.path = path
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        _remove_left(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(str(path))
            if group >= 0:
                os.chown(path, -1, group)
            # Nobody can connect before it listens, so nobody does while the mode is another.
            os.chmod(path, mode)
            listener.listen(BACKLOG)
            self._place = _place(path)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._start()

    def take_waiting(self) -> None:
        """Accept who has connected by now, before the loop comes to it."""
        self._accept()

    def _start(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(AT_ONCE):
            try:
                connected, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:  # no descriptors: it would be tried again at once
                log.warning("connections have to wait for a moment", socket=self.path.name, error=str(error))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._start)
                return
            self._accepted(connected)

    def close(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with suppress(OSError):
                if _place(self.path) == self._place:  # and not one that somebody else has made there since
                    os.unlink(self.path)


def _place(path: Path) -> tuple[int, int]:
    """Which file it is. Raises OSError."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_left(path: Path) -> None:
    """Unlink a socket on which nobody listens. Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # so many wait there that there is no room
            pass
    raise OSError(errno.EADDRINUSE, "somebody else listens there", str(path))
