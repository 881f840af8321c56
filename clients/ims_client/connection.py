"""One channel to a daemon: every call goes through here, so that every failure is a `CallFailed`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from .backoff import PATIENCE_SECONDS, Backoff, Outages
from .errors import call_failed

if TYPE_CHECKING:
    Call = Any  # a grpc.aio call; the library has no types

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Connection:
    """``channel`` to the daemon at ``address``; ``project_id`` goes into every request."""

    def __init__(self, channel: Any, address: str, project_id: str) -> None:
        self.channel = channel
        self.address = address
        self.project_id = project_id
        self.outages = Outages()

    def backoff(self, patience_seconds: float = PATIENCE_SECONDS) -> Backoff:
        """For calls on this connection that are made again; `outages` tells of them."""
        return Backoff(patience_seconds, outages=self.outages)

    async def call(self, method: Callable[[RequestT], Call], request: RequestT) -> Any:
        """The answer to ``request``. Raises `CallFailed`."""
        try:
            return await method(request)
        except grpc.aio.AioRpcError as error:
            raise call_failed(error, self.address) from None

    async def stream(self, method: Callable[[RequestT], Call], request: RequestT) -> AsyncIterator[Any]:
        """The answers to ``request`` as they come; closing it ends the call. Raises `CallFailed`."""
        call = method(request)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise call_failed(error, self.address) from None
        finally:
            call.cancel()
