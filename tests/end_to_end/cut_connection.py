"""A connection to the daemon that a test can hold up at a known byte, or make slow."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB

CUT_AFTER = 80 * MIB


class Cut:
    """A unix socket before the daemon's: counts the bytes that clients send and stops after some.

    ``reached`` is set when `CUT_AFTER` bytes came; nothing more passes until `go_on`. Every connection
    waits ``delay_seconds`` before its first byte passes.
    """

    def __init__(self, folder: Path, daemon: DaemonProcess, delay_seconds: float = 0.0) -> None:
        self._delay_seconds = delay_seconds
        self.path = folder / "cut.sock"
        self.address = f"unix:{self.path}"
        self.sent_bytes = 0
        self.reached = threading.Event()
        self._gate = threading.Event()
        self._daemon = str(daemon.socket)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def go_on(self) -> None:
        self._gate.set()

    def close(self) -> None:
        self._gate.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as daemon, suppress(OSError):
            time.sleep(self._delay_seconds)
            daemon.connect(self._daemon)
            while True:
                ready = select.select([client, daemon], [], [])[0]
                for source, sink in ((client, daemon), (daemon, client)):
                    if source in ready:
                        piece = source.recv(1 << 18)
                        if not piece:
                            return
                        sink.sendall(piece)
                        if source is client:
                            self._count(len(piece))

    def _count(self, length: int) -> None:
        self.sent_bytes += length
        if self.sent_bytes >= CUT_AFTER:
            self.reached.set()
            self._gate.wait(60)
