"""Traces and chains to begin with."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from imsd.trace_chain import GENESIS, REMOVAL, REMOVED_UP_TO, Seal, SealKey, Trace, TraceOutcome
from imsd.trace_check import ChainCheck, Link

START = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
KEY = SealKey(b"k" * 32)
OTHER_KEY = SealKey(b"o" * 32)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def new_id() -> str:
    return str(uuid.uuid4())


def a_trace(**values: Any) -> Trace:
    given: dict[str, Any] = {
        "id": new_id(),
        "project_id": "lab",
        "time": START,
        "name": "updateImage",
        "resource_type": "image",
        "resource_id": "7d0e1f7a-7e39-4a5e-8a3d-0d8b5cf0f2a1",
        "outcome": TraceOutcome.SUCCEEDED,
        "caller_kind": "api_token",
        "caller_id": "ann",
        "method": "imsd.v1.ImageService/UpdateImage",
        "action": "ims:images:update",
        "call_id": "0123456789ab",
        "details": {"update_mask": "name"},
    }
    return Trace(**(given | values))


def a_chain(length: int, **values: Any) -> list[Trace]:
    chain: list[Trace] = []
    previous = GENESIS
    for number in range(1, length + 1):
        chain.append(a_trace(time=at(number), **values).chained(number, previous))
        previous = chain[-1].hash
    return chain


def rechained(traces: Sequence[Trace], previous: str = GENESIS, first: int = 1) -> list[Trace]:
    """As whoever forges a chain would: every number and hash fits."""
    made: list[Trace] = []
    for number, trace in enumerate(traces, first):
        made.append(trace.chained(number, previous))
        previous = made[-1].hash
    return made


def a_removal(up_to: int, **values: Any) -> Trace:
    return a_trace(name=REMOVAL, details={REMOVED_UP_TO: str(up_to)}, **values)


def a_seal(trace: Trace, key: SealKey = KEY) -> Seal:
    return key.seal(trace.project_id, trace.sequence, trace.hash, trace.time)


def checked(
    traces: Iterable[Trace], seals: Iterable[Seal] = (), head: tuple[int, str] | None = None
) -> ChainCheck:
    """``head`` None: the last trace."""
    check, waiting = ChainCheck(KEY), sorted(seals, key=lambda seal: -seal.sequence)
    last = (0, GENESIS)
    for trace in traces:
        while waiting and waiting[-1].sequence < trace.sequence:
            check.add_seal(waiting.pop())
        check.add(Link.of(trace.fields()))
        while waiting and waiting[-1].sequence == trace.sequence:
            check.add_seal(waiting.pop())
        last = (trace.sequence, trace.hash)
    while waiting:
        check.add_seal(waiting.pop())
    check.end(*(head or last))
    return check
