"""The calls that run with an API token: revoking it ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from imsd.contract import Unauthenticated

from .caller import Caller


@dataclass(eq=False, frozen=True, slots=True)
class _Running:
    caller: Caller
    task: asyncio.Task[object] | None
    ending: asyncio.Timeout


class TokenCalls:
    def __init__(self) -> None:
        self._running: set[_Running] = set()

    @asynccontextmanager
    async def running(self, caller: Caller) -> AsyncIterator[None]:
        """A call of ``caller``. Raises Unauthenticated (TOKEN_REVOKED) out of the block when it is ended."""
        if not caller.token_id:
            yield
            return
        try:
            async with asyncio.timeout(None) as ending:
                call = _Running(caller, asyncio.current_task(), ending)
                self._running.add(call)
                try:
                    yield
                finally:
                    self._running.discard(call)
        except TimeoutError:
            if not ending.expired():
                raise
            raise Unauthenticated(
                "the token was revoked while the call ran", reason="TOKEN_REVOKED", hint="use another token"
            ) from None

    def end(self, is_meant: Callable[[Caller], bool]) -> None:
        """End all calls of the callers that are meant, but for the one that asks for it."""
        now = asyncio.get_running_loop().time()
        for call in list(self._running):
            if call.task is not asyncio.current_task() and is_meant(call.caller):
                call.ending.reschedule(now)
                self._running.discard(call)
