"""How calls find what answers them."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from imsd.grpc_server.server_pair import _register_no_methods


def waiting() -> int:
    """What waits for calls of single methods: with every call, grpc.aio waits for all of them anew."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum("_request_registered_call" in name for name in names)


async def test_no_method_is_waited_for_by_itself_and_every_call_finds_its_handler() -> None:
    server = grpc.aio.server()
    _register_no_methods(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert waiting() == 0
    finally:
        await server.stop(0)


async def test_what_waits_for_single_methods_would_be_seen() -> None:
    """When this fails, grpc.aio does better now, and `_register_no_methods` may go."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert waiting() > 0
    finally:
        await server.stop(0)
