"""The two servers of gRPC, which serve the same: one on the unix sockets, one on the TCP addresses.

Each has places of its own for calls. Whatever strangers do at an address that can be reached from elsewhere,
whoever may open a socket of this machine gets in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc

from imsd.core.limits import MAX_WRITE_BYTES

from .call_places import MAX_CALLS_OF_ONE, MAX_RUNNING_CALLS

if TYPE_CHECKING:
    from .tls import ServerTls

# A write message carries up to 1 MiB of data and a few bytes of framing.
MAX_RECEIVED_BYTES: Final = MAX_WRITE_BYTES + (64 << 10)

# What gRPC's clients take unless they are told otherwise.
MAX_SENT_BYTES: Final = 4 << 20

# Of one call. A token that tells of two hundred groups has 10 KiB; gRPC drops some calls from 8 KiB on.
MAX_METADATA_BYTES: Final = 20 << 10

# What a client may send of a stream before the daemon asks for it. A fixed window: a probed one grows to
# several MiB a stream. A larger one makes nothing faster, and with 1 MiB forty imports that send their
# bytes at once take 45 MiB more.
STREAM_WINDOW_BYTES: Final = 256 << 10

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
    ("grpc.max_send_message_length", MAX_SENT_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    ("grpc.so_reuseport", 0),
)

# Of one TCP address: each is a descriptor, and strangers open them.
MAX_CONNECTIONS: Final = 512

# A connection must say within this time that it speaks HTTP/2, with TLS where that is asked for.
HANDSHAKE_SECONDS: Final = 20

# One without a call is closed after this time; clients connect again by themselves.
IDLE_SECONDS: Final = 300

# Who sends nothing for so long is asked whether it is there, and who does not answer in time has gone: what
# waits to be sent to it would keep the places of its calls.
ASK_SECONDS: Final = 30
ANSWER_SECONDS: Final = 20

# Calls of one connection to a TCP address; a client's further ones wait in the client.
MAX_CALLS_OF_CONNECTION: Final = 4 * MAX_CALLS_OF_ONE

# What gRPC itself counts at the TCP addresses: also calls that are answered and whose client does not take
# the answer, which only the end of its connection ends. So one connection must not make up all of them.
MAX_REMOTE_CALLS: Final = 4 * MAX_CALLS_OF_CONNECTION

_TCP_OPTIONS: Final = (
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.max_concurrent_streams", MAX_CALLS_OF_CONNECTION),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ("grpc.keepalive_time_ms", ASK_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", ANSWER_SECONDS * 1000),
)


class ServerPair:
    """``tls``: of all TCP addresses."""

    def __init__(self, interceptor: grpc.aio.ServerInterceptor, tls: ServerTls | None = None) -> None:
        self._tls = tls
        self._local = _server(interceptor, MAX_RUNNING_CALLS)
        self._remote = _server(interceptor, MAX_REMOTE_CALLS, _TCP_OPTIONS)

    def add(self, registration: Callable[[Any, Any], None], servicer: Any) -> None:
        """``registration``: a generated ``add_…Servicer_to_server``."""
        for server in (self._local, self._remote):
            registration(servicer, server)

    def add_port(self, address: str) -> int:
        """The port that was taken. Raises RuntimeError when the address cannot be listened on."""
        if address.startswith("unix:"):
            return int(self._local.add_insecure_port(address))
        if self._tls is None:
            return int(self._remote.add_insecure_port(address))
        return int(self._remote.add_secure_port(address, self._tls.credentials(address)))

    async def start(self) -> None:
        await self._local.start()
        await self._remote.start()

    async def stop(self) -> None:
        """Cut all calls that run."""
        await asyncio.gather(self._local.stop(grace=0), self._remote.stop(grace=0))


def _server(
    interceptor: grpc.aio.ServerInterceptor, max_calls: int, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[interceptor],
        maximum_concurrent_rpcs=max_calls,
        options=[*_OPTIONS, *options],
    )
    _register_no_methods(server)
    return server


def _register_no_methods(server: grpc.aio.Server) -> None:
    """Have calls find their handlers by name alone: generated code also registers each method with gRPC.

    With each call that comes in, grpc.aio (seen with grpcio 1.85; grpc/grpc pull request 43461) waits anew
    for the next call of every registered method: of a hundred methods, a third of what a small call takes.
    """
    server.add_registered_method_handlers = lambda service_name, method_handlers: None
