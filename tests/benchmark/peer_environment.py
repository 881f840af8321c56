"""Peers that come from the Python index live in environments of their own under .cache/bench."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmark.disks import CACHE
from tests.benchmark.stopwatch import NotAvailable, command

START_PATIENCE_SECONDS = 60.0


def programs(name: str, *requirements: str) -> Path:
    """The folder of the programs of ``requirements``, installed on first use. Raises NotAvailable."""
    environment = CACHE / name
    mark = environment / ".installed"
    if not mark.exists():
        print(f"installing {' '.join(requirements)} in {environment}", flush=True)
        try:
            command(sys.executable, "-m", "venv", environment)
            quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off")
            command(environment / "bin" / "pip", "install", *quiet, *requirements)
        except RuntimeError as error:
            raise NotAvailable(f"{requirements[0]} cannot be installed: {str(error)[-200:]}") from error
        mark.touch()
    return environment / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until ``process`` listens on ``port``. Raises NotAvailable if it ends or takes too long."""
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise NotAvailable(f"it did not start; see {log}")
