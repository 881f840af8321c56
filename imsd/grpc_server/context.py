"""The context of a call: its type, generic for mypy but not at run time, and the client that leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = object


class PeerGone(Exception):
    """The client hung up: nobody is left to answer."""
