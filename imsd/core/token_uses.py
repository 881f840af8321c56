"""When API tokens were used last: gathered, and written for all of them together some seconds later."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from imsd.metadata import api_tokens as token_rows

from .runtime import Runtime

WRITE_SECONDS: Final = 5.0


class TokenUses:
    """To the minute: a token that is used all the time costs one row a minute."""

    def __init__(self, runtime: Runtime, write_seconds: float = WRITE_SECONDS) -> None:
        self._runtime = runtime
        self._write_seconds = write_seconds
        self._waiting: dict[str, datetime] = {}
        self._noted: dict[str, datetime] = {}
        self._closing = asyncio.Event()
        self._is_writing = False

    def note(self, token_id: str, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        if self._noted.get(token_id) == minute:
            return
        self._noted[token_id] = self._waiting[token_id] = minute
        if not self._is_writing:
            self._is_writing = True
            self._runtime.background.spawn(self._write_soon(), "last uses of tokens")

    def close(self) -> None:
        """What waits is written at once."""
        self._closing.set()

    async def _write_soon(self) -> None:
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._closing.wait()
        except TimeoutError:
            pass
        self._is_writing = False
        waiting, self._waiting = self._waiting, {}
        newest = max(waiting.values())
        self._noted = {each: minute for each, minute in self._noted.items() if minute >= newest}
        async with self._runtime.database.transaction() as c:
            await token_rows.note_uses(c, waiting)
