"""Calls whose request is none: nothing of it comes, it is cut off, or it is no message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

import grpc
import pytest
from ims_client import CallFailed, connect

from imsd.grpc_server.call_places import MAX_CALLS_OF_ONE, MAX_CALLS_OF_STRANGERS
from imsd.grpc_server.server_pair import MAX_CALLS_OF_CONNECTION, MAX_CONNECTIONS
from imsd.v1 import identity_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.test_who_calls import free_port

UNARY = "/imsd.v1.CatalogService/GetServiceInfo"
STREAM = "/imsd.v1.JobService/WatchJob"
HEALTH = "/grpc.health.v1.Health/"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def open_daemon(port: int, start_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """One that strangers can reach."""
    return start_daemon(options=["--listen", f"127.0.0.1:{port}"])


async def ending(call: Any, *messages: bytes) -> grpc.aio.AioRpcError:
    """How a call fails whose requests are these."""
    for message in messages:
        await call.write(message)
    await call.done_writing()
    return await failure(call)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asyncio.wait_for(_end(call), 20)
    return failed.value


async def _end(call: Any) -> None:
    if isinstance(call, grpc.aio.StreamUnaryCall):
        await call
    else:
        while await call.read() is not grpc.aio.EOF:
            pass


@pytest.mark.parametrize("method", [UNARY, STREAM])
async def test_a_call_without_a_request_is_told_so(daemon: DaemonProcess, method: str) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        make = channel.stream_unary if method == UNARY else channel.stream_stream
        for messages in ((), (b"\xff\xff\xff",)):
            failed = await ending(make(method)(), *messages)
            assert wire.reason_of(failed) == "INVALID_REQUEST"
            assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_calls_that_are_given_up_before_their_request_came_leave_nothing(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        for round_ in range(30):
            calls = [channel.stream_unary(UNARY)() for _ in range(5)]
            calls += [channel.stream_stream(STREAM)() for _ in range(5)]
            await asyncio.sleep(0.001 * (round_ % 7))
            for call in calls:
                call.cancel()
    async with connect(daemon.address) as client:
        assert (await client.identity.caller()).is_administrator


async def test_a_stranger_who_sends_no_request_keeps_no_place(open_daemon: DaemonProcess, port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as stranger:
        calls = [stranger.stream_unary(UNARY)() for _ in range(MAX_CALLS_OF_CONNECTION // 2)]
        for failed in await asyncio.gather(*map(failure, calls)):
            assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
        assert wire.reason_of(await failure(stranger.stream_unary(UNARY)())) == "UNAUTHENTICATED"
        async with connect(open_daemon.address) as client:
            assert (await client.identity.caller()).is_administrator


async def test_a_caller_keeps_its_own_places_only_by_requests_that_do_not_come(
    open_daemon: DaemonProcess, port: int
) -> None:
    async with connect(open_daemon.address) as client:
        for user in ("ann", "bob"):
            await client.identity.create_user(user)
        ann, bob = [(await client.identity.create_token("t", user)).secret for user in ("ann", "bob")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        said = (("authorization", f"Bearer {ann}"),)
        calls = [channel.stream_unary(UNARY)(metadata=said) for _ in range(MAX_CALLS_OF_ONE + 10)]
        endings = [asyncio.create_task(failure(call)) for call in calls]
        for done in islice(asyncio.as_completed(endings), 10):
            assert wire.reason_of(await done) == "LIMIT_EXCEEDED"
        async with connect(f"127.0.0.1:{port}", token=bob) as client:
            assert (await client.identity.caller()).kind == identity_pb2.CALLER_KIND_API_TOKEN
        async with connect(f"127.0.0.1:{port}", token=ann) as client:
            with pytest.raises(CallFailed, match="calls of ann run already"):
                await client.identity.caller()
        for call in calls:
            call.cancel()
        await asyncio.gather(*endings, return_exceptions=True)


async def test_of_strangers_who_watch_the_oldest_gives_way(open_daemon: DaemonProcess, port: int) -> None:
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as stranger,
        grpc.aio.insecure_channel(open_daemon.address) as here,
    ):
        watches = []
        for _ in range(MAX_CALLS_OF_STRANGERS + 3):
            watches.append(stranger.unary_stream(HEALTH + "Watch")(b""))
            assert await watches[-1].read() == b"\x08\x01"  # SERVING
        for watch in watches[:3]:
            assert wire.reason_of(await failure(watch)) == "LIMIT_EXCEEDED"
        assert await stranger.unary_unary(HEALTH + "Check")(b"") == b"\x08\x01"
        local = [here.unary_stream(HEALTH + "Watch")(b"") for _ in range(MAX_CALLS_OF_STRANGERS + 3)]
        for watch in local:
            assert await watch.read() == b"\x08\x01"
        assert not any(watch.done() for watch in (*local, *watches[4:]))


async def test_an_address_has_so_many_connections_and_the_socket_is_not_touched(
    open_daemon: DaemonProcess, port: int
) -> None:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS + 20)]
    async with asyncio.timeout(20):
        greetings = await asyncio.gather(*(reader.read(1) for reader, _ in connections))
    assert greetings.count(b"") == 20
    async with connect(open_daemon.address) as client:
        assert (await client.identity.caller()).is_administrator
    for _, writer in connections:
        writer.close()
        await writer.wait_closed()
