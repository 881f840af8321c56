"""The socket for open files, and what may come over it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ims_client.hand_over import hand_over

from imsd.contract import NotFound
from imsd.core.handed_files import HandedFile, HandedFiles
from imsd.grpc_server import file_socket
from imsd.grpc_server.file_socket import MAGIC, MAX_CONNECTIONS, MAX_EXAMINED, SUFFIX, FileSocket


@pytest.fixture
async def files() -> AsyncIterator[HandedFiles]:
    files = HandedFiles()
    yield files
    files.close()


@pytest.fixture
async def server(files: HandedFiles, tmp_path: Path) -> AsyncIterator[FileSocket]:
    server = FileSocket(f"{tmp_path}/s{SUFFIX}", files)
    server.bind()
    server.start()
    yield server
    server.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 1000)
    return path


def connected(server: FileSocket) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(5)
    connection.connect(server.path)
    return connection


async def answer_to(server: FileSocket, packet: bytes, *fds: int) -> bytes:
    def ask() -> bytes:
        with connected(server) as connection:
            if fds:
                socket.send_fds(connection, [packet], fds)
            else:
                connection.send(packet)
            return connection.recv(1024)

    return await asyncio.to_thread(ask)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_file_arrives_under_its_token(server: FileSocket, files: HandedFiles, disk: Path) -> None:
    with disk.open("rb") as file:
        address = f"unix:{server.path.removesuffix(SUFFIX)}"
        token = await asyncio.to_thread(hand_over, address, file.fileno())
        assert token
        with files.take(token):
            pass


async def test_a_client_sends_bytes_where_nobody_takes_files(tmp_path: Path, disk: Path) -> None:
    with disk.open("rb") as file:
        assert hand_over(f"unix:{tmp_path}/nobody", file.fileno()) is None
        assert hand_over("127.0.0.1:1", file.fileno()) is None


async def test_what_is_refused_is_said_and_closed(server: FileSocket, files: HandedFiles, disk: Path) -> None:
    token = os.urandom(32)
    with disk.open("rb") as file, disk.open("rb") as other:
        before = descriptors()
        assert b"one packet" in await answer_to(server, b"nonsense")
        assert b"one packet" in await answer_to(server, MAGIC + token)
        assert b"one packet" in await answer_to(server, b"nonsense", file.fileno())
        assert b"INVALID_REQUEST" in await answer_to(server, MAGIC + b"short", file.fileno())
        read_end, write_end = os.pipe()
        assert b"no local file system" in await answer_to(server, MAGIC + token, read_end)
        os.close(read_end)
        os.close(write_end)
        # Of two descriptors the kernel delivers what there is room for: one, and it counts.
        both = os.urandom(32)
        assert await answer_to(server, MAGIC + both, file.fileno(), other.fileno()) == file_socket.TAKEN
        await asyncio.sleep(0.05)
        assert descriptors() == before + 1
        files.take(both).close()
    for refused in (token, b"short", b""):
        with pytest.raises(NotFound):
            files.take(refused)


async def test_who_says_nothing_is_hung_up_on(server: FileSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_socket, "PATIENCE_SECONDS", 0.02)

    def wait() -> bytes:
        with connected(server) as connection:
            return connection.recv(1024)

    assert await asyncio.to_thread(wait) == b""


async def test_only_so_many_connections_are_kept(server: FileSocket, disk: Path) -> None:
    silent = [await asyncio.to_thread(connected, server) for _ in range(MAX_CONNECTIONS)]
    await asyncio.sleep(0.05)
    one_more = await asyncio.to_thread(connected, server)
    assert await asyncio.to_thread(one_more.recv, 1024) == b""
    one_more.close()
    for connection in silent:
        connection.close()
    await asyncio.sleep(0.05)
    with disk.open("rb") as file:
        assert await answer_to(server, MAGIC + os.urandom(32), file.fileno()) == file_socket.TAKEN


async def test_the_socket_goes_with_the_daemon(files: HandedFiles, tmp_path: Path) -> None:
    path = tmp_path / f"s{SUFFIX}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:  # by a daemon that was killed
        left.bind(str(path))
    server = FileSocket(str(path), files)
    server.bind()
    server.start()
    client = await asyncio.to_thread(connected, server)
    server.close()
    assert not path.exists()
    assert await asyncio.to_thread(client.recv, 1) == b""
    client.close()


async def test_what_is_no_socket_stays_where_it_is(files: HandedFiles, tmp_path: Path) -> None:
    path = tmp_path / f"s{SUFFIX}"
    path.write_bytes(b"somebody's")
    with pytest.raises(OSError, match="in use"):
        FileSocket(str(path), files).bind()
    assert path.read_bytes() == b"somebody's"


async def test_a_file_system_that_hangs_keeps_nobody_waiting(
    server: FileSocket, files: HandedFiles, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    examine = HandedFile.examine

    def hang(fd: int) -> HandedFile:
        answers.wait()
        return examine(fd)

    monkeypatch.setattr(file_socket, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(HandedFile, "examine", hang)
    tokens = [os.urandom(32) for _ in range(MAX_EXAMINED)]
    with disk.open("rb") as file:
        before = descriptors()
        asked = [answer_to(server, MAGIC + token, file.fileno()) for token in tokens]
        assert set(await asyncio.gather(*asked)) == {b""}  # the loop goes on, and hangs up
        assert b"looked at" in await answer_to(server, MAGIC + os.urandom(32), file.fileno())
        answers.set()
        monkeypatch.setattr(HandedFile, "examine", examine)
        async with asyncio.timeout(10):
            while descriptors() > before:  # nobody waits for these any more
                await asyncio.sleep(0.01)
        for token in tokens:
            with pytest.raises(NotFound):
                files.take(token)
        assert await answer_to(server, MAGIC + tokens[0], file.fileno()) == file_socket.TAKEN


async def test_without_descriptors_it_is_tried_again_later(
    files: HandedFiles, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener(socket.socket):
        refused = 0

        def accept(self) -> tuple[socket.socket, object]:
            if self.refused < 2:
                self.refused += 1
                raise OSError(errno.EMFILE, "no descriptors left")
            return super().accept()

    monkeypatch.setattr(file_socket, "PAUSE_SECONDS", 0.1)
    server = FileSocket(f"{tmp_path}/s{SUFFIX}", files)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Listener)
        server.bind()
    server.start()
    begin = asyncio.get_running_loop().time()
    with disk.open("rb") as file:
        assert await answer_to(server, MAGIC + os.urandom(32), file.fileno()) == file_socket.TAKEN
    assert asyncio.get_running_loop().time() - begin >= 0.2
    server.close()


async def test_a_file_that_was_handed_over_can_be_locked_again(server: FileSocket, disk: Path) -> None:
    """The mark of an upload that goes on is a lock: the daemon must not hold it."""
    with disk.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert await asyncio.to_thread(hand_over, f"unix:{server.path.removesuffix(SUFFIX)}", file.fileno())
    with disk.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
