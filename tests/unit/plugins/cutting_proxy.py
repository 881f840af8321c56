"""A proxy before a server that ends connections: before a request is sent, or before its answer is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal


class CuttingProxy:
    """``cuts`` more requests end with their connection: not even ``"sent"``, or ``"answered"`` in vain."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.port = 0
        self.cuts = 0
        self.when: Literal["sent", "answered"] = "answered"
        self.cut_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(reader, back, writer, "sent"))
                    both.create_task(self._pass(there, writer, writer, "answered"))
            finally:
                back.transport.abort()
                writer.transport.abort()

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        what: Literal["sent", "answered"],
    ) -> None:
        with suppress(OSError):
            while piece := await source.read(1 << 16):
                if self.cuts and self.when == what:
                    self.cuts -= 1
                    self.cut_requests += 1
                    break
                sink.write(piece)
                await sink.drain()
        client.transport.abort()
        sink.transport.abort()


@asynccontextmanager
async def cutting_proxy(port: int) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(port)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await proxy.serve(reader, writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
