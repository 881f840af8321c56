"""The sockets of an HTTP client, to be sure that they are closed when it is."""

from __future__ import annotations

import asyncio
import socket
from typing import Final
from weakref import WeakSet

from aiohttp import AddrInfoType

# A connection of TLS that ends says so, and its session does not wait for the other side to hear it. One that
# hears nothing for so long is left to the event loop.
CLOSING_SECONDS: Final = 1.0

LOOK_SECONDS: Final = 0.01


class Sockets:
    """Makes them, and waits for their end."""

    def __init__(self) -> None:
        self._made: WeakSet[socket.socket] = WeakSet()

    def make(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    async def wait_closed(self) -> None:
        """Call it when the session is closed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + CLOSING_SECONDS
        while any(each.fileno() >= 0 for each in self._made) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
