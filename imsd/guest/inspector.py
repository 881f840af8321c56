"""Inspecting disks of strangers: each in a process of its own that can do nothing but ask for bytes.

Whatever that process does (ends, loops, fills its memory, talks nonsense, reads for ever), the answer is
a report that says so; an inspection never fails an import.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imsd.contract import run_blocking

from .budget import MAX_FETCH_BYTES, Budget
from .channel import MAX_REPORT_BYTES, READ, REPORT, REQUEST, TASK
from .report import GuestReport, clean, not_inspected
from .spawner_link import CannotInspect, Spawner, kill

if TYPE_CHECKING:
    from imsd.formats.source import BlockSource

JOB = "imsd.guest.child:serve"
MAX_DISK_BYTES = 1 << 62

Read = Callable[[int, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class InspectionLimits:
    """For one inspection, but for ``processes``: how many may run at a time.

    ``cpu_seconds`` of the inspecting process, after which it reports what it knows; at most 8.
    ``seconds``: from the start of the process to its report, with all reading.
    """

    budget: Budget = field(default_factory=Budget)
    cpu_seconds: float = 5.0
    seconds: float = 60.0
    processes: int = 2


class GuestInspector:
    """Looks into disks. Start it once, close it at the end; `inspect` may be called many times at once."""

    def __init__(self, limits: InspectionLimits | None = None, job: str = JOB) -> None:
        """``job``: what the confined process runs, as ``module:function``."""
        self._limits = limits or InspectionLimits()
        self._spawner = Spawner(job)
        self._turns = asyncio.Semaphore(self._limits.processes)

    async def start(self) -> None:
        """Get the first process ready, so that no inspection waits for it. Raises `CannotInspect`."""
        await run_blocking(self._spawner.start)

    async def close(self) -> None:
        """For good: inspections that run, and later ones, end with a report that says so."""
        await run_blocking(self._spawner.close)

    async def inspect(self, size_bytes: int, read: Read) -> GuestReport:
        """What is on the disk of ``size_bytes`` that ``read(offset, length)`` gives bytes of.

        ``read`` is asked for 1 byte to 1 MiB inside the disk, and never again before it answered. Raises
        nothing but a cancellation: what goes wrong, in ``read`` too, is a report that the disk was not
        inspected.
        """
        async with self._turns:
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._inspect(size_bytes, read)
            except TimeoutError:
                return not_inspected(f"it took longer than {self._limits.seconds:g} seconds")
            except CannotInspect as error:
                return not_inspected(str(error))

    async def _inspect(self, size_bytes: int, read: Read) -> GuestReport:
        if not 0 <= size_bytes < MAX_DISK_BYTES:
            raise CannotInspect(f"a disk of {size_bytes} bytes")
        channel, pid_fd = await self._start_child()
        try:
            channel.setblocking(False)
            return await _Conversation(channel, size_bytes, read, self._limits).run()
        except OSError as error:
            raise CannotInspect("the inspecting process ended before its report") from error
        finally:
            kill(pid_fd)
            channel.close()

    async def _start_child(self) -> tuple[socket.socket, int]:
        """As `Spawner.start_child`, but nothing is left behind when the caller is cancelled meanwhile."""
        started: list[tuple[socket.socket, int]] = []
        try:
            await run_blocking(lambda: started.append(self._spawner.start_child()))
        except asyncio.CancelledError:
            for channel, pid_fd in started:
                kill(pid_fd)
                channel.close()
            raise
        return started[0]


class _Conversation:
    """Answers one inspecting process, and believes none of what it says."""

    def __init__(self, channel: socket.socket, size_bytes: int, read: Read, limits: InspectionLimits) -> None:
        self._channel = channel
        self._size_bytes = size_bytes
        self._read = read
        self._limits = limits
        self._reads = 0
        self._read_bytes = 0
        self._loop = asyncio.get_running_loop()

    async def run(self) -> GuestReport:
        """Raises `CannotInspect`, OSError (the process is gone)."""
        budget = self._limits.budget
        milliseconds = int(self._limits.cpu_seconds * 1000)
        await self._send(TASK.pack(self._size_bytes, budget.reads, budget.read_bytes, milliseconds))
        while True:
            kind, offset, length = REQUEST.unpack(await self._receive(REQUEST.size))
            if kind == READ:
                await self._send(await self._answer(offset, length))
            elif kind == REPORT:
                return await self._take_report(length)
            else:
                raise CannotInspect("the inspecting process sent something that is no request")

    async def _answer(self, offset: int, length: int) -> bytes:
        if not 0 < length <= MAX_FETCH_BYTES or offset + length > self._size_bytes:
            raise CannotInspect(f"the inspecting process asked for {length} bytes at {offset}")
        self._reads += 1
        self._read_bytes += length
        budget = self._limits.budget
        if self._reads > budget.reads or self._read_bytes > budget.read_bytes:
            raise CannotInspect("the inspecting process asked for more than it may read")
        try:
            content = await self._read(offset, length)
        except TimeoutError:
            raise CannotInspect("the disk could not be read in time") from None
        except Exception as error:
            raise CannotInspect(clean(f"the disk could not be read: {error}")) from error
        if len(content) != length:
            raise CannotInspect(f"the disk gave {len(content)} bytes for {length}")
        return content

    async def _take_report(self, length: int) -> GuestReport:
        if length > MAX_REPORT_BYTES:
            raise CannotInspect(f"a report of {length} bytes")
        try:
            return GuestReport.from_json(await self._receive(length))
        except ValueError as error:
            kind = "JSON" if isinstance(error, json.JSONDecodeError) else "report"
            raise CannotInspect(f"the inspecting process sent what is no {kind}") from error

    async def _send(self, content: bytes) -> None:
        await self._loop.sock_sendall(self._channel, content)

    async def _receive(self, length: int) -> bytes:
        content = bytearray(length)
        rest = memoryview(content)
        while rest:
            count = await self._loop.sock_recv_into(self._channel, rest)
            if not count:
                raise BrokenPipeError("the inspecting process ended")
            rest = rest[count:]
        return bytes(content)


def inspect_disk(disk: BlockSource, limits: InspectionLimits | None = None) -> GuestReport:
    """What is on a disk whose bytes are at hand; blocks, and needs a thread without a running event loop.

    Raises nothing: see `GuestInspector.inspect`.
    """

    async def read(offset: int, length: int) -> bytes:
        content = bytearray(length)
        disk.read_into(offset, memoryview(content))
        return bytes(content)

    async def run() -> GuestReport:
        inspector = GuestInspector(limits)
        try:
            return await inspector.inspect(disk.size_bytes, read)
        finally:
            await inspector.close()

    return asyncio.run(run())
