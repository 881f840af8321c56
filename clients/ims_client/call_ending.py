"""The status that the daemon ended a two-way stream with, even if grpc.aio forgets it.

A message that is on its way when the stream ends makes grpc.aio (seen with grpcio 1.85) replace the
daemon's status by one of its own, "Internal error from Core", before any coroutine has seen the first.
A done callback runs at the very moment a status is set, so it sees both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc.aio

T = TypeVar("T")

# How long the daemon's status may come after grpc.aio's own.
STATUS_SECONDS = 1.0

_ON_ITS_WAY = "Internal error from Core"


class CallEnding:
    """Listens to ``call``, a grpc.aio call that has just begun."""

    def __init__(self, call: Any) -> None:
        self._statuses: list[grpc.aio.AioRpcError] = []
        self._has_status = asyncio.Event()
        call.add_done_callback(self._note)

    async def status(self, seen: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The daemon's own status, or UNAVAILABLE when none comes; ``seen`` is what the call raised."""
        if seen.details() != _ON_ITS_WAY:
            return seen
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await self._has_status.wait()
        if self._statuses:
            return self._statuses[0]
        nothing = grpc.aio.Metadata()
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details="the stream broke")

    def _note(self, call: Any) -> None:
        details = _at_once(call.details())
        code = _at_once(call.code())
        if code is None or code is grpc.StatusCode.OK or details == _ON_ITS_WAY:
            return
        leading, trailing = _at_once(call.initial_metadata()), _at_once(call.trailing_metadata())
        nothing = grpc.aio.Metadata()
        self._statuses.append(grpc.aio.AioRpcError(code, leading or nothing, trailing or nothing, details))
        self._has_status.set()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """The result of a coroutine that need not wait; None if it would have to."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        value: T = result.value
        return value
    coroutine.close()
    return None
