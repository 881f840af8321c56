"""A process that asks a service for the same kind of thing again and again, and says how long it took.

    python -m tests.benchmark.load < PLAN > RESULT

A process of its own, so that it competes with nothing but the kernel for its processor; it neither makes
nor reads messages, so that the service is what limits it. Two ways of asking:

* `in_flight` requests at any time, each followed by the next as soon as it is answered: how many a second.
* `rate` requests a second, at times fixed in advance, whether or not earlier ones were answered; how long
  one takes is counted from when it was to be sent. A service that stops for a second is charged for all
  that came in that second.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import grpc

# After the last request of a plan was sent, answers are waited for so long.
PATIENCE_SECONDS = 10.0

Ask = Callable[[int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Plan:
    """``requests`` are taken in turn, base64: messages for the ``method`` of gRPC, or whole HTTP requests.

    ``address``: unix:PATH of a gRPC server, or HOST:PORT of an HTTP server, for which ``method`` is empty.
    ``in_flight`` or ``rate`` is 0.
    """

    address: str
    method: str
    requests: tuple[str, ...]
    seconds: float
    in_flight: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a plan: seconds each answered request took, and of how many none came."""

    latencies: list[float]
    failures: int
    wall_seconds: float
    own_share: float  # of one processor that the asking itself took

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.wall_seconds


async def follow(plan: Plan) -> Load:
    async with _asking(plan) as ask:
        await ask(0)  # connected, and what is made at the first request is made
        begin, used = time.perf_counter(), time.process_time()
        latencies, failures = await (_saturate if plan.in_flight else _pace)(plan, ask)
        took = time.perf_counter() - begin
        return Load(latencies, failures, took, (time.process_time() - used) / took)


async def _saturate(plan: Plan, ask: Ask) -> tuple[list[float], int]:
    latencies: list[float] = []
    failures = 0
    end = time.perf_counter() + plan.seconds

    async def one_after_the_other(first: int) -> None:
        nonlocal failures
        number = first
        while (begin := time.perf_counter()) < end:
            if await _is_answered(ask, number):
                latencies.append(time.perf_counter() - begin)
            else:
                failures += 1
            number += plan.in_flight

    await asyncio.gather(*(one_after_the_other(first) for first in range(plan.in_flight)))
    return latencies, failures


async def _pace(plan: Plan, ask: Ask) -> tuple[list[float], int]:
    latencies: list[float] = []
    begin = time.perf_counter()

    async def at_its_time(number: int) -> None:
        due = begin + number / plan.rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        if await _is_answered(ask, number):
            latencies.append(time.perf_counter() - due)

    count = int(plan.seconds * plan.rate)
    asking = [asyncio.create_task(at_its_time(number)) for number in range(count)]
    _, late = await asyncio.wait(asking, timeout=plan.seconds + PATIENCE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return latencies, count - len(latencies)


async def _is_answered(ask: Ask, number: int) -> bool:
    try:
        await ask(number)
    except (OSError, grpc.aio.AioRpcError, asyncio.IncompleteReadError):
        return False
    return True


@asynccontextmanager
async def _asking(plan: Plan) -> AsyncIterator[Ask]:
    requests = [base64.b64decode(request) for request in plan.requests]
    if plan.method:
        async with grpc.aio.insecure_channel(plan.address) as channel:
            # Without a serializer, messages stay bytes.
            call: Any = channel.unary_unary(plan.method)
            yield lambda number: call(requests[number % len(requests)])
    else:
        host, _, port = plan.address.rpartition(":")
        yield lambda number: ask_http(host, int(port), requests[number % len(requests)])


async def ask_http(host: str, port: int, request: bytes) -> bytes:
    """The body of the answer to one request, which says that the connection is to be closed after it.

    Raises OSError for any status but 200, and for a connection that cannot be made or breaks.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) or not length or int(length[1]) != len(body):
        raise OSError(f"answered {head[:200]!r}")
    return body


def main() -> None:
    load = asyncio.run(follow(Plan(**json.load(sys.stdin))))
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
