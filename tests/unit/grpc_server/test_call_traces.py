"""The trace of a call through the gate: how it ends, and when the database takes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from imsd.contract import (
    Conflict,
    FailedPrecondition,
    ImsError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from imsd.core.actions import OPERATIONS
from imsd.core.background import Background
from imsd.core.caller import THE_DAEMON, Caller, CallerKind
from imsd.core.running_calls import RunningCalls
from imsd.grpc_server.call_trace import CallTraces
from imsd.grpc_server.context import PeerGone
from imsd.metadata import engine
from imsd.metadata.database import open_database
from imsd.testing.memory_store import MemoryStore
from imsd.trace_chain import TraceOutcome
from imsd.v1 import image_pb2
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.traces.trace_world import World

METHOD = "imsd.v1.ImageService/DeleteImage"
REQUEST = image_pb2.DeleteImageRequest(project_id="lab", image_id="7d0e1f7a-7e39-4a5e-8a3d-0d8b5cf0f2a1")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 20)
    async with (
        open_database(f"sqlite+aiosqlite:///{tmp_path}/imsd.db") as database,
        open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime,
    ):
        yield World(runtime)


@contextmanager
def busy(folder: Path) -> Iterator[None]:
    """Another program has the write lock."""
    with closing(sqlite3.connect(folder / "imsd.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def call(world: World, error: BaseException | None = None) -> None:
    traces = CallTraces(world.runtime, world.recorder)
    async with traces.of(THE_DAEMON, METHOD, OPERATIONS[METHOD]) as trace:
        assert trace
        trace.requested(REQUEST)
        await trace.begin()
        if error:
            raise error
        trace.answered(image_pb2.DeleteImageResponse())


@pytest.mark.parametrize(
    ("error", "outcome", "reason", "message"),
    [
        (None, TraceOutcome.SUCCEEDED, "", ""),
        (PermissionDenied("not you"), TraceOutcome.DENIED, "PERMISSION_DENIED", "not you"),
        (Unauthenticated("who?"), TraceOutcome.DENIED, "UNAUTHENTICATED", "who?"),
        (FailedPrecondition("theirs", reason="NOT_OWNER"), TraceOutcome.DENIED, "NOT_OWNER", "theirs"),
        (NotFound("gone\n" + "x" * 600), TraceOutcome.FAILED, "NOT_FOUND", "gone\ufffd" + "x" * 494 + "…"),
        (Conflict("changed"), TraceOutcome.FAILED, "CONFLICT", "changed"),
        (asyncio.CancelledError(), TraceOutcome.FAILED, "CANCELLED", "the call was cut off"),
        (PeerGone(), TraceOutcome.FAILED, "CANCELLED", "the call was cut off"),
        (KeyError("a secret"), TraceOutcome.FAILED, "INTERNAL", "an internal error"),
    ],
)
async def test_a_trace_says_how_the_call_ended(
    world: World, error: BaseException | None, outcome: TraceOutcome, reason: str, message: str
) -> None:
    if error is None:
        await call(world)
    else:
        with pytest.raises(type(error)):
            await call(world, error)
    (trace,) = await world.written()
    assert (trace.outcome, trace.reason) == (outcome, reason)
    assert trace.message.startswith(message) if reason == "CANCELLED" else trace.message == message
    assert (trace.name, trace.method, trace.resource_id) == ("deleteImage", METHOD, REQUEST.image_id)


async def test_a_call_that_cannot_be_noted_does_no_work_and_leaves_no_trace(
    world: World, tmp_path: Path
) -> None:
    with busy(tmp_path), pytest.raises(Unavailable, match="the database does not answer"):
        await call(world, AssertionError("its work was begun"))
    assert await world.recorder.write_late() == 0
    assert (await world.intents(), await world.written()) == (0, [])


async def test_a_call_whose_trace_cannot_be_written_does_not_succeed(world: World, tmp_path: Path) -> None:
    async def work(locked: ExitStack) -> None:
        traces = CallTraces(world.runtime, world.recorder)
        async with traces.of(THE_DAEMON, METHOD, OPERATIONS[METHOD]) as trace:
            assert trace
            trace.requested(REQUEST)
            await trace.begin()
            locked.enter_context(busy(tmp_path))

    with ExitStack() as locked, pytest.raises(Unavailable, match="has ended, but its trace"):
        await work(locked)
    assert await world.recorder.write_late() == 0
    (written,) = await world.written()
    assert written.outcome is TraceOutcome.SUCCEEDED


async def test_a_call_that_reads_has_no_trace(world: World) -> None:
    method = "imsd.v1.ImageService/GetImage"
    async with CallTraces(world.runtime, world.recorder).of(THE_DAEMON, method, OPERATIONS[method]) as trace:
        assert trace is None
    assert await world.written("default") == []


@pytest.mark.parametrize(
    "why",
    [
        Unauthenticated("the token was revoked", reason="TOKEN_REVOKED"),
        Unauthenticated("the token has expired", reason="TOKEN_EXPIRED"),
        PermissionDenied("not any more"),
    ],
)
async def test_a_call_that_is_ended_is_denied_for_the_reason_of_its_end(world: World, why: ImsError) -> None:
    with pytest.raises(type(why)):
        await running_call(world, why)
    (written,) = await world.written()
    assert (written.outcome, written.reason, written.message) == (
        TraceOutcome.DENIED,
        why.reason,
        why.message,
    )


async def test_a_call_that_is_cut_off_is_not_denied(world: World) -> None:
    with pytest.raises(asyncio.CancelledError):
        await running_call(world, None)
    (written,) = await world.written()
    assert (written.outcome, written.reason) == (TraceOutcome.FAILED, "CANCELLED")


async def running_call(world: World, why: ImsError | None) -> None:
    """One that is ended; None: that is cut off."""
    ann = Caller(kind=CallerKind.API_TOKEN, id="ann")
    traces = CallTraces(world.runtime, world.recorder)
    async with (
        RunningCalls(Background()).running(ann) as running,
        traces.of(ann, METHOD, OPERATIONS[METHOD], running) as trace,
    ):
        assert trace
        trace.requested(REQUEST)
        await trace.begin()
        if why is None:
            raise asyncio.CancelledError
        running.end(why)
        await asyncio.sleep(3600)
