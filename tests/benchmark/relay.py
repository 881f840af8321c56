"""A unix socket before the daemon's that counts what clients send."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 1 << 20


class Relay:
    """Passes every connection on to ``target``; ``sent_bytes``: from the clients, so far."""

    def __init__(self, path: Path, target: Path) -> None:
        self.address = f"unix:{path}"
        self.sent_bytes = 0
        self._target = str(target)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                daemon = socket.socket(socket.AF_UNIX)
                daemon.connect(self._target)
                for ends in ((client, daemon, True), (daemon, client, False)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_counted: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                sink.sendall(piece)
                if is_counted:
                    self.sent_bytes += len(piece)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
