"""Sockets in the file system: those of killed processes are replaced, those of others are left alone."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from imsd.nbd.listening import Listening


def listen(path: Path) -> Listening:
    return Listening(path, 0o600, -1, socket.socket.close)


async def test_a_socket_that_a_killed_process_left_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "s"))
        left.listen()
    listening = listen(folder / "s")
    _, writer = await asyncio.open_unix_connection(str(folder / "s"))
    writer.close()
    listening.close()
    assert os.listdir(folder) == []


@pytest.mark.parametrize("is_crowded", [False, True])
async def test_nobody_is_pushed_from_the_socket_where_he_listens(folder: Path, *, is_crowded: bool) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(folder / "s"))
        other.listen(0)
        if is_crowded:
            waiting.connect(str(folder / "s"))
        with pytest.raises(OSError, match="listens there") as refused:
            listen(folder / "s")
        assert (refused.value.errno, refused.value.filename) == (errno.EADDRINUSE, str(folder / "s"))
        assert (folder / "s").exists()


async def test_the_socket_of_another_one_stays_when_it_ends(folder: Path) -> None:
    listening = listen(folder / "s")
    os.unlink(folder / "s")
    second = listen(folder / "s")
    listening.close()
    _, writer = await asyncio.open_unix_connection(str(folder / "s"))
    writer.close()
    second.close()
    assert not (folder / "s").exists()
