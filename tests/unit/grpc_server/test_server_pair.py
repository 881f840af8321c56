"""Two servers that serve the same, each with places of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from imsd.grpc_server.server_pair import MAX_CALLS_OF_CONNECTION, MAX_REMOTE_CALLS, ServerPair

ASKED = health_pb2.HealthCheckRequest()


class Passing(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


class SlowOverTcp(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """Answers on the socket at once, and at a TCP address when it is told to."""

    def __init__(self) -> None:
        self.running = 0
        self.is_full = asyncio.Event()
        self.go_on = asyncio.Event()

    async def Check(self, _: Any, context: Any) -> health_pb2.HealthCheckResponse:
        if not context.peer().startswith("unix:"):
            self.running += 1
            if self.running == MAX_REMOTE_CALLS:
                self.is_full.set()
            await self.go_on.wait()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def connection(port: int, *options: tuple[str, int]) -> Any:
    """Of its own: channels to one address share theirs unless told otherwise."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1), *options])


async def test_who_takes_no_answers_keeps_nobody_out() -> None:
    """Such calls are over for us, and not for gRPC."""
    servers = ServerPair(Passing())
    servers.add(health_pb2_grpc.add_HealthServicer_to_server, health.aio.HealthServicer())
    port = servers.add_port("127.0.0.1:0")
    await servers.start()
    try:
        async with (
            asyncio.timeout(30),
            connection(port, ("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0)) as deaf,
            connection(port) as other,
        ):
            check = deaf.unary_stream("/grpc.health.v1.Health/Check", ASKED.__class__.SerializeToString)
            calls = [check(ASKED) for _ in range(MAX_CALLS_OF_CONNECTION + 200)]
            await asyncio.sleep(1)  # more come in than before; none is answered
            answer = await health_pb2_grpc.HealthStub(other).Check(ASKED)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            for call in calls:
                call.cancel()
    finally:
        await servers.stop()


async def test_a_full_tcp_address_leaves_the_socket_its_places(tmp_path: Path) -> None:
    servers, servicer = ServerPair(Passing()), SlowOverTcp()
    servers.add(health_pb2_grpc.add_HealthServicer_to_server, servicer)
    socket = f"unix:{tmp_path}/s"
    servers.add_port(socket)
    port = servers.add_port("127.0.0.1:0")
    await servers.start()
    try:
        async with (
            asyncio.timeout(30),
            AsyncExitStack() as elsewhere,
            connection(port) as late,
            grpc.aio.insecure_channel(socket) as here,
        ):
            calls: list[Any] = []
            while len(calls) < MAX_REMOTE_CALLS:
                stub = health_pb2_grpc.HealthStub(await elsewhere.enter_async_context(connection(port)))
                calls += [stub.Check(ASKED) for _ in range(MAX_CALLS_OF_CONNECTION)]
            await servicer.is_full.wait()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health_pb2_grpc.HealthStub(late).Check(ASKED)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            answer = await health_pb2_grpc.HealthStub(here).Check(ASKED)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            servicer.go_on.set()
            await asyncio.gather(*calls)
    finally:
        await servers.stop()
