"""The block server of this machine, as the daemon sees it: a socket that takes a line of JSON and gives one.

What is said there is written in `imsd/nbd/README.md`. Data keys go over it, so who listens is looked at
first: it runs as this user or as root, and serves the stores of this state directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from imsd.contract import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unavailable,
)

log = structlog.get_logger(__name__)

Answer = dict[str, Any]

PROTOCOL_VERSION: Final = 2
MAX_LINE_BYTES: Final = 64 << 10

# An answer may wait for a store, and for those who read where a disk lay before.
ANSWER_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 5.0

# It takes 32 connections; one of them is the keeper's.
CONNECTIONS_AT_ONCE: Final = 8

# How long one that was started may take until it answers.
START_SECONDS: Final = 20.0
START_LOOK_SECONDS: Final = 0.05

# Root may read all that is here anyway.
TRUSTED_USER: Final = 0

UNAVAILABLE: Final = "BLOCK_SERVER_UNAVAILABLE"

_ERRORS: Final[dict[str, type[ImsError]]] = {
    "INVALID_REQUEST": InvalidRequest,
    "NOT_FOUND": NotFound,
    "CONFLICT": Conflict,
    "FAILED_PRECONDITION": FailedPrecondition,
    "LIMIT_EXCEEDED": LimitExceeded,
    "DATA_LOSS": DataLoss,
}


class Starter(Protocol):
    """Starts a block server that outlives the daemon."""

    async def start(self) -> None:
        """Return when it runs; it answers later. Raises Unavailable (BLOCK_SERVER_UNAVAILABLE)."""

    def failure(self) -> str:
        """Why the one that was started has ended; empty while it runs."""


@dataclass(frozen=True, slots=True)
class BlockServerPlace:
    """``state``: its own directory, which says whose stores it serves; ``sockets``: of disks."""

    control_socket: Path
    sockets: Path
    state: Path


class BlockLink:
    """A connection. ``pid``: of the process behind it; ``instance``: another one after each of its starts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self.pid = pid
        self.instance = ""

    async def call(self, op: str, *, patience_seconds: float = ANSWER_SECONDS, **fields: Any) -> Answer:
        """The answer. Raises what it says, and Unavailable (BLOCK_SERVER_UNAVAILABLE): then nobody knows."""
        line = json.dumps({"op": op} | fields).encode() + b"\n"
        try:
            async with asyncio.timeout(patience_seconds), self._turn:
                self._writer.write(line)
                await self._writer.drain()
                answer = json.loads(await self._reader.readline())
        except (OSError, ValueError, TimeoutError) as error:
            self._writer.close()  # what comes later would be taken for the answer to something else
            raise unavailable(f"it did not answer: {error or 'too slow, or cut off'}") from error
        if not isinstance(answer, dict):
            raise unavailable("it does not speak the protocol")
        if not answer.get("ok"):
            raise _told(answer.get("error"))
        return answer

    async def closed(self) -> None:
        """Wait until the other side ends the connection. No `call` runs meanwhile."""
        try:
            while await self._reader.read(1):
                pass
        except OSError:
            pass

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass


class BlockServer:
    """``starter``: None if somebody else starts it. ``refused``: why it serves an attachment not, by id."""

    def __init__(self, place: BlockServerPlace, starter: Starter | None) -> None:
        self.place = place
        self.refused: dict[str, str] = {}
        self._starter = starter
        self._starting = asyncio.Lock()
        self._places = asyncio.Semaphore(CONNECTIONS_AT_ONCE)

    async def call(self, op: str, *, may_start: bool = False, **fields: Any) -> Answer:
        """As `BlockLink.call`, over a connection of its own; ``may_start``: as of `connected`."""
        async with self.connected(may_start=may_start) as link:
            return await link.call(op, **fields)

    @asynccontextmanager
    async def connected(self, *, may_start: bool = False) -> AsyncIterator[BlockLink]:
        """A connection, to one that is started first with ``may_start`` if there is none and it can be.

        Raises Unavailable (BLOCK_SERVER_UNAVAILABLE).
        """
        async with self._places:
            link = await self._linked(may_start=may_start)
            try:
                yield link
            finally:
                await link.close()

    async def end_if_idle(self) -> None:
        """End one that the daemon starts when it is needed, and that has nothing attached."""
        if self._starter is None:
            return
        try:
            async with self.connected() as link:
                is_idle = not (await link.call("list", page_size=1))["attachments"]
                if is_idle and link.pid > 0:  # 0: one in another container, and to kill(2) this one
                    os.kill(link.pid, signal.SIGTERM)
        except (ImsError, OSError):
            return  # there is none

    async def _linked(self, *, may_start: bool) -> BlockLink:
        try:
            return await self._connect()
        except Unavailable:
            if not may_start or self._starter is None:
                raise
        async with self._starting:
            return await self._start(self._starter)

    async def _start(self, starter: Starter) -> BlockLink:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        is_started = False
        while True:
            try:
                return await self._connect()
            except Unavailable as error:
                if loop.time() > deadline or error.__cause__ is None:  # another's: it does not go away
                    raise
            if not is_started:
                await starter.start()
                is_started = True
            if failure := starter.failure():
                raise unavailable(f"it ended at its start: {failure}")
            await asyncio.sleep(START_LOOK_SECONDS)

    async def _connect(self) -> BlockLink:
        path = self.place.control_socket
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE_BYTES)
        except (OSError, TimeoutError) as error:
            raise unavailable(f"nothing answers at {path}") from error
        try:
            link = BlockLink(reader, writer, _require_trusted(writer))
            hello = await link.call("hello", patience_seconds=CONNECT_SECONDS)
            self._require_ours(hello)
            link.instance = str(hello.get("instance", ""))
        except BaseException as error:
            writer.close()
            if isinstance(error, ImsError):
                await writer.wait_closed()
            raise
        return link

    def _require_ours(self, hello: Answer) -> None:
        if hello.get("version") != PROTOCOL_VERSION:
            raise Unavailable(
                f"the block server that runs speaks version {hello.get('version')} of the protocol, and this "
                f"daemon version {PROTOCOL_VERSION}",
                reason=UNAVAILABLE,
                hint="end it, or `systemctl restart imsd-nbd`: clients that reconnect go on",
            )
        if hello.get("state_dir") != str(self.place.state):
            raise Unavailable(
                f"the block server at {self.place.control_socket} serves another state directory, "
                f"{str(hello.get('state_dir'))[:200]}",
                reason=UNAVAILABLE,
                hint="give each daemon of this machine a block_server.run_dir of its own",
            )


def unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"the block server is not there: {why}",
        reason=UNAVAILABLE,
        hint="start it with `systemctl start imsd-nbd`, or `imsd-nbd` with the daemon's configuration, and "
        "look at its log",
    )


def _require_trusted(writer: asyncio.StreamWriter) -> int:
    """The process that listens. Raises Unavailable when it is neither this user's nor root's."""
    connected: socket.socket = writer.get_extra_info("socket")
    shape = struct.Struct("3i")
    pid, uid, _ = shape.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, shape.size))
    if uid not in (os.geteuid(), TRUSTED_USER):
        raise unavailable(f"the one that listens runs as another user ({uid})")
    return int(pid)


def _told(error: Any) -> ImsError:
    """What the block server says, as an error of our own."""
    said = error if isinstance(error, dict) else {}
    reason, message = str(said.get("reason", "")), str(said.get("message", "it says nothing"))
    kind = _ERRORS.get(reason, Unavailable)
    known = reason if reason in (*_ERRORS, "DRIVER_NOT_READY", "STORE_UNAVAILABLE") else UNAVAILABLE
    hint = str(said.get("hint", "")) or "look at the log of the block server"
    return kind(f"the block server refuses: {message}", reason=known, hint=hint)
