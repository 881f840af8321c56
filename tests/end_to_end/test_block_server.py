"""The block server as a process: killed, restarted, stopped, beset, with clients that go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from tests.unit.chunks.ingest_world import MIB, SparseDisk, World, noise, text
from tests.unit.nbd.raw_client import READ, RawClient, reading

IMAGE_ID = "6a0b9f54-3d0f-4b6e-9d8e-0d9c3f2b1a00"
DATA_KEY = bytes(range(100, 132))
KEY_TEXT = "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM="
SIZE = 40 * MIB
DISK = SparseDisk(SIZE, {0: text(1, 4 * MIB), 6 * MIB + 512: noise(2, 2 * MIB), 20 * MIB: text(3, 8 * MIB)})
CONTENT = DISK.content()
START_SECONDS = 30.0

# Far less than the hostile clients of the test ask for; the interpreter and its libraries are 75 MiB of it.
MAX_RSS_BYTES = 400 << 20


class Server:
    """`imsd-nbd` on a state directory with a local store, in a folder with a short path."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.control = folder / "run" / "control.sock"
        self.log = folder / "log"
        given = {
            "BLOCK_SERVER__RUN_DIR": folder / "run",
            "BLOCK_SERVER__CACHE_LOCAL_STORES": True,
            **settings,
        }
        self._environment = os.environ | {"IMSD_CONFIG": os.devnull, "IMSD_LOG_LEVEL": "debug"}
        self._environment |= {f"IMSD_{key}": str(value) for key, value in given.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "imsd.nbd",
            "--state-dir",
            str(self.state_dir),
            "--log-format",
            "json",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        return self._process

    def start(self) -> None:
        process = self.launch()
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                self.ask("hello")
                return
            except OSError:
                time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(30)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)
            link.connect(str(self.control))
            link.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
            with link.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def rss_bytes(self) -> int:
        """The most it ever held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="imsd-nbd."))
    (folder / "state").mkdir()
    server = Server(folder)
    server.start()
    yield server
    status = server.end()
    log = server.log.read_text()
    shutil.rmtree(folder)
    assert status == 0, log
    assert "Traceback" not in log
    assert '"exception"' not in log


async def put(server: Server, cipher: ChunkCipher | None = None) -> tuple[str, str]:
    """The manifest that the disk becomes in the store of ``server``, and its digest."""
    pool = DecodePool(2)
    try:
        async with open_local_store(LocalStoreOptions(path=server.state_dir / "store")) as store:
            result, written = await World(pool, store, cipher=cipher).store_disk(DISK)
            return written.manifest_id, result.digest
    finally:
        pool.close()


def told(stored: tuple[str, str], attachment_id: str = "a1") -> dict[str, Any]:
    return {
        "attachment_id": attachment_id,
        "export_name": "disk",
        "store": "main",
        "manifest_id": stored[0],
        "size_bytes": SIZE,
        "digest": stored[1],
    }


@pytest.fixture
async def path(server: Server) -> str:
    """The socket of the disk."""
    answer = server.ask("attach", **told(await put(server)))
    assert answer["state"] == "ready"
    socket_path: str = answer["socket"]
    return socket_path


class QemuIo:
    """A client that reconnects."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self, start: int, length: int) -> None:
        """Compares what it reads, a pattern at a time: all of it is one byte, over and over."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"read {start} {length}\n".encode())
        async with asyncio.timeout(60):
            while b"ops;" not in (line := await self._process.stdout.readline()):
                assert line, "qemu-io ended"
                assert b"failed" not in line, line

    async def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()


@pytest.fixture
async def qemu_io(path: str) -> AsyncIterator[QemuIo]:
    given = ("driver=raw", "file.driver=nbd", "file.server.type=unix", "file.export=disk")
    options = ",".join([*given, f"file.server.path={path}", "file.reconnect-delay=30"])
    process = await asyncio.create_subprocess_exec(
        "qemu-io",
        "-r",
        "--image-opts",
        options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    client = QemuIo(process)
    yield client
    await client.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_client_that_reconnects_goes_on_after_a_restart(
    server: Server, qemu_io: QemuIo, number: signal.Signals
) -> None:
    await qemu_io.read(0, 65536)
    for step in range(3):
        assert server.end(number) in (0, -signal.SIGKILL)
        reading_on = asyncio.ensure_future(qemu_io.read(20 * MIB + step * MIB, 65536))
        await asyncio.to_thread(server.start)
        await reading_on


async def test_what_is_served_again_is_the_disk(server: Server, path: str) -> None:
    async with reading(path) as client:
        assert await client.read(0, 32 * MIB) == CONTENT[: 32 * MIB]
    server.end(signal.SIGKILL)
    shutil.rmtree(server.state_dir / "store" / "packs")  # what was read is in the cache
    server.start()
    async with reading(path) as client:
        assert await client.read(0, 32 * MIB) == CONTENT[: 32 * MIB]
    assert server.ask("status", attachment_id="a1")["cached_bytes"] > 0


async def test_an_encrypted_disk_waits_for_its_key_and_no_key_is_anywhere(server: Server) -> None:
    fields = told(await put(server, ChunkCipher(DATA_KEY, IMAGE_ID)), "secret") | {"binding": IMAGE_ID}
    path = server.ask("attach", **fields, data_key=KEY_TEXT)["socket"]
    async with reading(path) as client:
        assert await client.read(20 * MIB, 8 * MIB) == CONTENT[20 * MIB : 28 * MIB]
    server.end(signal.SIGKILL)
    server.start()
    assert server.ask("status", attachment_id="secret")["state"] == "waiting_for_key"
    with pytest.raises(OSError, match=r"refused|No such file"):
        await asyncio.open_unix_connection(path)
    assert server.ask("attach", **fields, data_key=KEY_TEXT)["state"] == "ready"
    async with reading(path) as client:
        assert await client.read(20 * MIB, MIB) == CONTENT[20 * MIB : 21 * MIB]
    server.end()
    for file in await asyncio.to_thread(
        lambda: [each for each in server.folder.rglob("*") if each.is_file()]
    ):
        raw = file.read_bytes()
        assert DATA_KEY not in raw
        assert KEY_TEXT.encode() not in raw
    server.start()


def test_it_leaves_no_core_dump(server: Server) -> None:
    limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
    assert [line.split()[-3:] for line in limits if "core" in line] == [["0", "0", "bytes"]]


def test_a_second_one_on_the_same_directory_does_not_start(server: Server) -> None:
    first = server._process
    second = server.launch()
    assert second.wait(30) == 1
    server._process = first
    assert "STATE_DIRECTORY_IN_USE" in server.log.read_text()
    assert server.ask("hello")["ok"]


@pytest.mark.parametrize(
    "settings",
    [
        {"BLOCK_SERVER__RUN_DIR": "/dev/null/x"},
        {"BLOCK_SERVER__MEMORY_BYTES": "1"},
        {"STORES__MAIN__COLOUR": "x"},
    ],
)
def test_a_wrong_configuration_is_told_and_ends_it(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "state").mkdir()
    wrong = Server(tmp_path, **settings)
    assert wrong.launch().wait(30) == 1
    assert "INVALID_CONFIGURATION" in wrong.log.read_text()
    assert "Traceback" not in wrong.log.read_text()


def test_it_needs_neither_grpc_nor_a_database(server: Server) -> None:
    code = (
        "import sys, imsd.block_server as b; bad = [m for m in sys.modules if m.split('.')[0] in "
        "('grpc', 'sqlalchemy', 'alembic', 'aiosqlite', 'google')]; print(bad)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


async def test_it_says_when_it_is_ready_and_when_it_stops(server: Server) -> None:
    server.end()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(server.folder / "notify"))
        supervisor.settimeout(30)
        server._environment["NOTIFY_SOCKET"] = str(server.folder / "notify")
        server.start()
        assert supervisor.recv(4096).startswith(b"READY=1\n")
        server.end()
        assert supervisor.recv(4096) == b"STOPPING=1"
    server.start()


async def test_it_ends_at_once_though_clients_wait(server: Server, path: str) -> None:
    clients = [await asyncio.open_unix_connection(path) for _ in range(20)]
    async with reading(path) as client:
        for start in range(0, SIZE, MIB):
            client.send(READ, start, MIB)
        assert await asyncio.to_thread(server.end) == 0
    for _, writer in clients:
        writer.close()
    server.start()


async def test_hostile_clients_cost_little_memory_and_disturb_nobody(server: Server, path: str) -> None:
    deaf = []
    for _ in range(60):
        reader, writer = await asyncio.open_unix_connection(path)
        client = RawClient(reader, writer)
        await client.go()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            client.send(READ, 0, 32 * MIB)
        deaf.append(writer)
    for _ in range(300):
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            continue
        writer.write(b"\0\0\0\3" + os.urandom(1000))
        writer.close()
    async with asyncio.timeout(60):
        while server.ask("status", attachment_id="a1")["clients"] > len(deaf):
            await asyncio.sleep(0.05)
    async with reading(path) as client:
        for start in range(0, SIZE, 4 * MIB):
            assert await client.read(start, 4 * MIB) == CONTENT[start : start + 4 * MIB]
    assert server.rss_bytes() < MAX_RSS_BYTES
    for writer in deaf:
        writer.transport.abort()
