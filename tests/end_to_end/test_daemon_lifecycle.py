"""Starting and stopping: sockets, locks, notifications, configuration errors."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imsd.v1 import catalog_pb2, driver_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

StartDaemon = Callable[..., DaemonProcess]


async def test_a_stale_socket_is_replaced(tmp_path: Path, start_daemon: StartDaemon) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "imsd.sock"))
    daemon = start_daemon()
    assert daemon.socket.is_socket()
    assert daemon.socket.stat().st_mode & 0o777 == 0o660


def ended_with(process: subprocess.Popen[bytes], log: Path, status: int = 1) -> str:
    assert process.wait(30) == status
    text = log.read_text()
    assert "Traceback" not in text
    return text


def test_a_second_daemon_on_the_same_state_directory_refuses(daemon: DaemonProcess, tmp_path: Path) -> None:
    second = DaemonProcess(tmp_path / "second")
    second.folder.mkdir()
    second.state_dir = daemon.state_dir
    text = ended_with(second.launch(), second.log)
    assert "STATE_DIRECTORY_IN_USE" in text
    assert str(daemon.pid) in text


def test_a_living_socket_is_not_taken_over(daemon: DaemonProcess, tmp_path: Path) -> None:
    second = DaemonProcess(tmp_path / "second")
    second.folder.mkdir()
    second.address = daemon.address
    assert "another daemon listens" in ended_with(second.launch(), second.log)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nonsense", "127.0.0.1:99999"])
def test_an_address_that_cannot_be_listened_on_is_named(tmp_path: Path, address: str) -> None:
    daemon = DaemonProcess(tmp_path)
    daemon.address = address
    assert "INVALID_CONFIGURATION" in ended_with(daemon.launch(), daemon.log, status=2)


async def test_tcp_on_loopback_asks_who_calls(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = DaemonProcess(tmp_path, ["--listen", f"127.0.0.1:{port}"])
    daemon.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Stubs(channel).catalog.GetServiceInfo(catalog_pb2.GetServiceInfoRequest())
        assert wire.reason_of(refused.value) == "UNAUTHENTICATED"
    finally:
        assert daemon.stop() == 0


async def test_health_says_serving(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="imsd.v1.ImageService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_says_not_serving_while_calls_may_finish(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs, health = Stubs(channel), health_pb2_grpc.HealthStub(channel)
        stream = stubs.uploads.WriteUpload()
        await stream.write(wire.header(await wire.open_upload(stubs)))
        await stream.read()  # the call has begun: the daemon waits for it
        os.kill(daemon.pid, signal.SIGTERM)
        for service in ("", "imsd.v1.ImageService"):
            request = health_pb2.HealthCheckRequest(service=service)
            async with asyncio.timeout(30):
                while (await health.Check(request)).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                    await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.catalog.GetServiceInfo(catalog_pb2.GetServiceInfoRequest())
        assert wire.reason_of(refused.value) == "UNAVAILABLE"
        stream.cancel()
    assert await asyncio.to_thread(daemon.stop) == 0


async def test_systemd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(30)
        daemon = DaemonProcess(tmp_path)
        os.environ["NOTIFY_SOCKET"] = str(path)
        try:
            daemon.launch()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        first = (await asyncio.to_thread(listener.recv, 4096)).decode()
        assert "READY=1" in first
        assert "STATUS=" in first
        assert await asyncio.to_thread(daemon.stop) == 0
        assert "STOPPING=1" in listener.recv(4096).decode()


async def test_drivers_say_their_state(stubs: Stubs) -> None:
    drivers = (await stubs.drivers.ListDrivers(driver_pb2.ListDriversRequest())).drivers
    main = next(driver for driver in drivers if driver.instance == "main")
    assert main.name == "localfs"
    assert main.state == driver_pb2.DRIVER_STATE_READY
    assert main.is_default


async def test_formats_say_what_can_be_done(stubs: Stubs) -> None:
    formats = (await stubs.catalog.ListFormats(catalog_pb2.ListFormatsRequest())).formats
    assert len(formats) == 11
    readable = [f for f in formats if f.can_read]
    assert len(readable) >= 3


async def test_who_watches_and_takes_no_news_does_not_keep_the_daemon_from_stopping(
    daemon: DaemonProcess,
) -> None:
    narrow = [("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0)]
    async with (
        grpc.aio.insecure_channel(daemon.address, narrow) as deaf,
        grpc.aio.insecure_channel(daemon.address) as other,
    ):
        watch = health_pb2_grpc.HealthStub(deaf).Watch(health_pb2.HealthCheckRequest())
        await asyncio.sleep(0.5)
        await health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest())
        assert await asyncio.to_thread(daemon.stop) == 0
        watch.cancel()
