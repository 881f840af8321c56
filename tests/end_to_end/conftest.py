"""A daemon for a test, stopped and checked for a clean end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.end_to_end.block_server_process import BlockServerProcess
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.web_server import WebServer


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Start a daemon with settings of the test's own; it is stopped when the test ends."""
    started: list[DaemonProcess] = []

    def start(**settings: Any) -> DaemonProcess:
        daemon = DaemonProcess(tmp_path, **settings)
        started.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in started:
        assert daemon.stop() in (0, -9), daemon.log.read_text()[-4000:]
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()[-4000:]


@pytest.fixture
def server() -> Iterator[BlockServerProcess]:
    """The block server that a daemon of the test starts, in `server.run_dir`; ended after the daemon."""
    server = BlockServerProcess()
    yield server
    server.close()


@pytest.fixture
def daemon(start_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    return start_daemon()


@pytest.fixture
async def stubs(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


@pytest.fixture
def start_with_web(
    start_daemon: Callable[..., DaemonProcess], web: WebServer, certificate: Path
) -> Callable[..., DaemonProcess]:
    """Start a daemon that may ask the test's server."""

    def start(**settings: Any) -> DaemonProcess:
        allowed = {
            "url_import__allowed_networks": "127.0.0.0/8,::1",
            "url_import__ports": web.port,
            "url_import__ca_file": certificate,
        }
        return start_daemon(**allowed, **settings)

    return start
