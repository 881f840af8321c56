"""One attachment: a disk, the socket it is served on, its clients, and the record of what they read first."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from .access_trace import AccessTrace, Entries
from .channel import Channel, ClientGone
from .connection import Connection
from .description import Description
from .disk import Disk
from .handshake import Export, shake_hands
from .listening import Listening
from .prefetching import Prefetcher
from .read_ahead import ReadAhead

log = structlog.get_logger(__name__)

# What an announcement (CACHE) brings into memory where there is no cache on the disk.
MAX_WARMED_BYTES = 4 << 20

# Many clients of one disk leave some places to clients of others.
LEAST_CLIENTS = 16


# How often is told that there are too many.
CROWD_SECONDS = 60.0


class State(StrEnum):
    READY = "ready"
    OPENING = "opening"
    WAITING_FOR_KEY = "waiting_for_key"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SocketRules:
    """``folder``: where sockets are made, with this mode and group (a number, -1: none).

    ``max_clients``: of all attachments.
    """

    folder: Path
    mode: int
    group: int
    max_clients: int

    def path(self, attachment_id: str) -> Path:
        return self.folder / f"{attachment_id}.sock"


@dataclass(slots=True)
class ClientCount:
    """Connections of all attachments."""

    number: int = 0


class Attachment:
    """See `imsd.nbd.connection.Served` for what clients need of it. ``room_bytes``: for reading ahead."""

    def __init__(
        self, description: Description, disk: Disk | None, room_bytes: int, prefetcher: Prefetcher | None
    ) -> None:
        self.description = description
        self.trace = AccessTrace(description.size_bytes)
        self.failure = ""
        self.requests = 0
        self.read_bytes = 0
        self.errors = 0
        self.prefetcher = prefetcher
        self._disk = disk
        self._read_ahead = ReadAhead(description.size_bytes, room_bytes)
        self._listening: Listening | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._told_of_crowd = -CROWD_SECONDS

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self._disk is None:
            return State.FAILED if self.failure else State.WAITING_FOR_KEY
        if self._disk.is_open:
            return State.READY
        return State.FAILED if self.failure else State.OPENING

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def socket_path(self) -> str:
        return str(self._listening.path) if self._listening else ""

    @property
    def disk(self) -> Disk:
        assert self._disk is not None, "there is no socket without a disk"
        return self._disk

    @property
    def has_disk(self) -> bool:
        return self._disk is not None

    def use(self, description: Description, disk: Disk) -> Disk | None:
        """Read ``disk`` from now on; returns the one before."""
        before, self._disk = self._disk, disk
        self.description = description
        self.failure = ""
        return before

    # -- clients -------------------------------------------------------------------------------------------

    def listen(self, rules: SocketRules, count: ClientCount) -> None:
        """Raises OSError."""
        limit = min(rules.max_clients, max(LEAST_CLIENTS, rules.max_clients // 2))

        def accepted(connected: socket.socket) -> None:
            if count.number >= rules.max_clients or len(self._clients) >= limit:
                self._turn_away(connected)
                return
            count.number += 1
            task = asyncio.ensure_future(self._serve(connected))
            self._clients.add(task)
            task.add_done_callback(lambda task: self._left(task, count))

        path = rules.path(self.description.attachment_id)
        self._listening = Listening(path, rules.mode, rules.group, accepted)

    def _turn_away(self, connected: socket.socket) -> None:
        connected.close()
        now = time.monotonic()
        if now - self._told_of_crowd > CROWD_SECONDS:  # whoever floods the socket must not flood the log
            self._told_of_crowd = now
            log.warning("clients are turned away: there are too many", **self._about)

    def _left(self, task: asyncio.Task[None], count: ClientCount) -> None:
        self._clients.discard(task)
        count.number -= 1

    async def _serve(self, connected: socket.socket) -> None:
        channel = Channel(connected)
        try:
            export = Export(self.description.export_name, self.description.size_bytes)
            if chosen := await shake_hands(channel, export):
                log.debug("a client reads", **self._about)
                await Connection(channel, self, chosen).serve()
        except ClientGone:
            pass
        except Exception:
            log.exception("a client was cut off by a defect", **self._about)
        finally:
            channel.close()

    @property
    def _about(self) -> dict[str, str]:
        return {"attachment": self.description.attachment_id}

    async def wait_for_clients(self, seconds: float) -> None:
        """Until all have left, so long at most. Who connects meanwhile is one of them."""
        self._take_waiting()
        if self._clients:
            await asyncio.wait(self._clients, timeout=seconds)
            self._take_waiting()

    def _take_waiting(self) -> None:
        if self._listening is not None:
            self._listening.take_waiting()

    async def close(self) -> None:
        """Cut off the clients; the socket is gone."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        if self.prefetcher is not None:
            await self.prefetcher.close()

    # -- of a connection: see Served -----------------------------------------------------------------------

    def touched(self, start: int, length: int) -> None:
        self.trace.touch(start, length, time.monotonic())
        if ahead := self._read_ahead.next_range(start, length):
            self.disk.load_ahead(*ahead)

    def warm(self, start: int, length: int) -> None:
        if self.prefetcher is not None:
            self.prefetcher.announce(start, length)
        else:
            self.disk.load_ahead(start, min(length, MAX_WARMED_BYTES))

    def sent(self, read_bytes: int) -> None:
        self.read_bytes += read_bytes

    def answered(self, *, has_failed: bool) -> None:
        self.requests += 1
        self.errors += has_failed


def fitting(entries: Entries, limit: int) -> Entries:
    """The first of ``entries``, ``limit`` bytes of them at most."""
    found, total = [], 0
    for start, length in entries:
        if total + length > limit:
            break
        found.append((start, length))
        total += length
    return found


def covered_bytes(entries: Entries) -> int:
    return sum(length for _, length in entries)
