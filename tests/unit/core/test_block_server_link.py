"""What listens where the block server should: it may be anybody, and say anything."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imsd.contract import FailedPrecondition, ImsError, LimitExceeded, NotFound, Unavailable
from imsd.core.attachments import block_server
from imsd.core.attachments.block_server import UNAVAILABLE, BlockServer, BlockServerPlace
from imsd.nbd.control import MAX_CONNECTIONS

STATE = Path("/var/lib/imsd/nbd")
HELLO = {"ok": True, "version": 2, "state_dir": str(STATE), "instance": "1"}

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(behave: Behaviour) -> AsyncIterator[BlockServer]:
    """A block server that behaves so; its socket has a short name."""
    with tempfile.TemporaryDirectory(prefix="nbd-", dir="/tmp") as folder:
        path = Path(folder) / "control.sock"

        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await behave(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()
                ended.set()

        async with await asyncio.start_unix_server(serve, str(path)):
            yield BlockServer(BlockServerPlace(path, Path(folder), STATE), None)
            await ended.wait()


def answering(*lines: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            await reader.readline()
            writer.write(line)
            await writer.drain()
        await reader.read()

    return behave


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"hello\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b'{"ok": true}\n',
        b'{"ok": true, "version": 1}\n',
        b'{"ok": false}\n',
        b'{"ok": false, "error": "no"}\n',
        b'{"ok": true, "version": 2, "state_dir": "/elsewhere"}\n',
        b"x" * (200 << 10) + b"\n",
    ],
)
async def test_who_does_not_speak_as_a_block_server_is_none(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_server, "CONNECT_SECONDS", 0.5)
    async with listening(answering(said)) as server:
        with pytest.raises(Unavailable) as refused:
            await server.call("list")
    assert refused.value.reason == UNAVAILABLE
    assert refused.value.hint


async def test_nobody_listens() -> None:
    server = BlockServer(BlockServerPlace(Path("/nonexistent/control.sock"), STATE, STATE), None)
    with pytest.raises(Unavailable) as refused:
        await server.call("list", may_start=True)
    assert (refused.value.reason, "systemctl start imsd-nbd" in refused.value.hint) == (UNAVAILABLE, True)
    await server.end_if_idle()


async def test_one_of_another_user_is_not_told_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    monkeypatch.setattr("os.geteuid", lambda: 12345)
    monkeypatch.setattr(block_server, "TRUSTED_USER", 54321)
    async with listening(behave) as server:
        with pytest.raises(Unavailable) as refused:
            await server.call("attach", data_key="secret")
        assert "another user" in refused.value.message
    assert heard in ([], [b""])


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("NOT_FOUND", NotFound),
        ("LIMIT_EXCEEDED", LimitExceeded),
        ("FAILED_PRECONDITION", FailedPrecondition),
        ("DRIVER_NOT_READY", Unavailable),
    ],
)
async def test_what_it_refuses_is_refused_for_the_same_reason(reason: str, kind: type[ImsError]) -> None:
    refusal = line(ok=False, error={"reason": reason, "message": "it says no", "hint": "ask better"})
    async with listening(answering(line(**HELLO), refusal)) as server:
        with pytest.raises(kind) as refused:
            await server.call("attach")
    assert (refused.value.reason, refused.value.hint) == (reason, "ask better")
    assert "it says no" in refused.value.message


async def test_a_reason_that_nobody_knows_is_none_of_ours() -> None:
    refusal = line(ok=False, error={"reason": "OUT_OF_COFFEE", "message": 7})
    async with listening(answering(line(**HELLO), refusal)) as server:
        with pytest.raises(Unavailable) as refused:
            await server.call("attach")
    assert refused.value.reason == UNAVAILABLE


async def test_one_that_is_cut_off_in_an_answer_leaves_the_outcome_open() -> None:
    async with listening(answering(line(**HELLO), b'{"ok": tr')) as server:
        async with server.connected() as link:
            call = asyncio.create_task(link.call("attach", patience_seconds=0.2))
            with pytest.raises(Unavailable) as refused:
                await call
        assert refused.value.reason == UNAVAILABLE


async def test_however_many_ask_there_are_places_left() -> None:
    """A block server takes so many connections, and cuts off the one that is one too many."""
    now, most = 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        while await reader.readline():
            writer.write(line(**HELLO))
        now -= 1
        writer.close()

    async def ask(server: BlockServer) -> None:
        async with server.connected() as link:
            await link.call("list")
            await asyncio.sleep(0.01)

    with tempfile.TemporaryDirectory(prefix="nbd-", dir="/tmp") as folder:
        path = Path(folder) / "control.sock"
        async with await asyncio.start_unix_server(serve, str(path)):
            server = BlockServer(BlockServerPlace(path, Path(folder), STATE), None)
            await asyncio.gather(*(ask(server) for _ in range(50)))
    assert 0 < most <= MAX_CONNECTIONS - 1


class Idler:
    async def start(self) -> None:
        raise AssertionError("nothing is started here")

    def failure(self) -> str:
        return ""


@pytest.mark.parametrize("pid", [0, 4711])
async def test_one_that_is_idle_is_ended_if_its_process_is_known(
    pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a process in another container that it is 0, which is everybody in this group."""
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda *given: ended.append(given))
    monkeypatch.setattr(block_server, "_require_trusted", lambda _: pid)
    async with listening(answering(line(**HELLO), line(ok=True, attachments=[]))) as server:
        await BlockServer(server.place, Idler()).end_if_idle()
    assert ended == ([(pid, signal.SIGTERM)] if pid else [])
