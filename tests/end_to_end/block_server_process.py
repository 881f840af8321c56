"""The block server that a daemon of a test starts: found by its control socket, ended by its process id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

END_SECONDS = 30.0


class BlockServerProcess:
    """Its sockets lie in a directory with a short name: the address of a socket has 108 bytes."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="nbd-", dir="/tmp"))
        self.control_socket = self.run_dir / "control.sock"
        self.sockets = self.run_dir / "nbd"

    def pid(self) -> int:
        """Of the one that listens; 0: there is none."""
        with suppress(OSError), self._connected() as link:
            shape = struct.Struct("3i")
            return int(shape.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, shape.size))[0])
        return 0

    def call(self, op: str, **fields: Any) -> dict[str, Any]:
        with self._connected() as link, link.makefile("rwb") as lines:
            lines.write(json.dumps({"op": op} | fields).encode() + b"\n")
            lines.flush()
            answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def signal(self, number: int) -> None:
        """And wait until it is gone, which another process sees to."""
        pid = self.pid()
        assert pid
        os.kill(pid, number)
        deadline = time.monotonic() + END_SECONDS
        while _runs(pid):
            assert time.monotonic() < deadline, "the block server does not end"
            time.sleep(0.02)

    def close(self) -> None:
        if self.pid():
            self.signal(signal.SIGKILL)
        shutil.rmtree(self.run_dir)

    def _connected(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.settimeout(30)
            link.connect(str(self.control_socket))
        except OSError:
            link.close()
            raise
        return link


def _runs(pid: int) -> bool:
    """A process that has ended may be waited for by its parent a moment later."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def is_same(file: Path, uri: str) -> bool:
    """Whether the disk at ``uri`` is, to the last byte, the raw disk in ``file``, as qemu reads it."""
    command = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(file), uri]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode in (0, 1), result.stderr
    return result.returncode == 0


def answers(uri: str) -> bool:
    return subprocess.run(["nbdinfo", "--size", uri], capture_output=True, timeout=60).returncode == 0
