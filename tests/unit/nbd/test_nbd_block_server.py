"""The block server as it is put together: the directories it makes, and when it has nothing left to do."""

from __future__ import annotations

import asyncio
import grp
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from imsd import block_server
from imsd.block_server import open_block_server, until_forgotten
from imsd.block_server_start import block_server_of
from imsd.config import Config
from imsd.config_loading import load_config
from imsd.contract import FailedPrecondition


@pytest.fixture
def runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory of a user."""
    path = folder / "run"
    path.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


def config(folder: Path, **section: Any) -> Config:
    values = {"state_dir": folder / "state", "block_server": section}
    return load_config(Path(os.devnull), values).config


async def test_nothing_is_left_in_the_runtime_directory(folder: Path, runtime: Path) -> None:
    async with open_block_server(config(folder)) as running:
        assert running.places.control_socket.is_socket()
        assert running.places.control_socket.parent.parent == runtime
    assert os.listdir(runtime) == []
    assert (folder / "state" / "nbd" / "attachments").is_dir()


async def test_a_directory_that_an_operator_chose_stays(folder: Path, runtime: Path) -> None:
    (folder / "chosen").mkdir()
    async with open_block_server(config(folder, run_dir=str(folder / "chosen"))):
        pass
    assert (folder / "chosen").is_dir()


async def test_one_that_may_not_start_removes_nothing(folder: Path, runtime: Path) -> None:
    async with open_block_server(config(folder)) as running:
        with pytest.raises(FailedPrecondition, match="another block server"):
            async with open_block_server(config(folder)):
                pass
        reader, writer = await asyncio.open_unix_connection(str(running.places.control_socket))
        writer.write(b'{"op": "hello"}\n')
        assert b'"ok": true' in await reader.readline()
        writer.close()


async def test_the_group_of_the_sockets_reaches_them(
    folder: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Path, int]] = []
    monkeypatch.setattr("os.chown", lambda path, user, group: given.append((Path(path), group)))
    group = grp.getgrgid(os.getegid())
    made = config(folder).model_copy(update={"socket_group": group.gr_name})
    async with open_block_server(made) as running:
        assert given == [(running.places.sockets, group.gr_gid)]


async def test_it_is_forgotten_when_its_state_directory_is_gone_and_nobody_connected(
    folder: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_server, "LOOK_SECONDS", 0.01)
    async with open_block_server(config(folder)) as running:
        forgotten = asyncio.ensure_future(until_forgotten(running))
        await asyncio.sleep(0.1)
        assert not forgotten.done()
        monkeypatch.setattr(running.attachments._count, "number", 1)
        shutil.rmtree(folder / "state")
        await asyncio.sleep(0.1)
        assert not forgotten.done()
        monkeypatch.setattr(running.attachments._count, "number", 0)
        await asyncio.wait_for(forgotten, 30)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_one_that_a_daemon_starts_says_nothing_to_the_daemons_supervisor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY=1 and MAINPID= of another process would be taken for the daemon's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(folder / "notify"))
        supervisor.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("IMSD_BLOCK_SERVER__RUN_DIR", str(folder / "run"))
        server = block_server_of(config(folder))
        async with server.connected(may_start=True) as link:
            pid = link.pid
        await server.end_if_idle()
        async with asyncio.timeout(30):
            while is_there(pid):
                await asyncio.sleep(0.02)
        with pytest.raises(BlockingIOError):
            supervisor.recv(4096)
