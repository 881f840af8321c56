"""The one table from a gRPC failure to an exception, and finding the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2
from ims_client import (
    CallFailed,
    ImsClient,
    JobCancelled,
    JobFailed,
    Outages,
    connect,
    parse_address,
    patiently,
)
from ims_client.address import default_address, socket_candidates
from ims_client.backoff import Backoff
from ims_client.errors import call_failed
from imsctl.outage_notes import OutageNotes
from imsctl.progress import NoProgress, Snapshot

from imsd.v1 import job_pb2
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import Refusal

REFUSALS = [
    (code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (code_pb2.INVALID_ARGUMENT, "IMAGE_MALFORMED"),
    (code_pb2.NOT_FOUND, "NOT_FOUND"),
    (code_pb2.ALREADY_EXISTS, "ALREADY_EXISTS"),
    (code_pb2.FAILED_PRECONDITION, "IMAGE_PROTECTED"),
    (code_pb2.ABORTED, "CONFLICT"),
    (code_pb2.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    (code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED"),
    (code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE"),
    (code_pb2.DATA_LOSS, "DATA_LOSS"),
    (code_pb2.CANCELLED, "CANCELLED"),
    (code_pb2.INTERNAL, "INTERNAL"),
]


@pytest.mark.parametrize(("code", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
async def test_a_refusal_keeps_reason_sentence_hint_and_field(
    client: ImsClient, daemon: FakeDaemon, code: int, reason: str
) -> None:
    daemon.state.refuse_next["GetImage"] = [Refusal(code, reason, "that is wrong", "do it right", "image_id")]
    with pytest.raises(CallFailed) as refused:
        await client.images.get("x")
    error = refused.value
    assert (error.reason, error.message, error.hint) == (reason, "that is wrong", "do it right")
    assert (error.field, error.code) == ("image_id", code_pb2.Code.Name(code))
    assert str(error) == f"that is wrong [{reason}]"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"),
        (grpc.StatusCode.UNAVAILABLE, "DAEMON_UNREACHABLE"),
        (grpc.StatusCode.CANCELLED, "DAEMON_UNREACHABLE"),
        (grpc.StatusCode.UNKNOWN, "INTERNAL"),
    ],
)
def test_a_status_without_details_has_a_reason_too(code: grpc.StatusCode, reason: str) -> None:
    nothing = grpc.aio.Metadata()
    error = call_failed(grpc.aio.AioRpcError(code, nothing, nothing, details=""), "unix:/x")
    assert error.reason == reason
    assert error.message


def test_a_socket_that_is_not_ours_is_told_from_one_that_is_dead() -> None:
    nothing = grpc.aio.Metadata()
    details = "failed to connect to all addresses; last error: unix:/x: Permission denied"
    error = call_failed(
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details=details), "unix:/x"
    )
    assert "may not be used" in error.message
    assert "group" in error.hint


async def test_a_dead_address_is_unreachable(tmp_path: Path) -> None:
    async with connect(f"unix:{tmp_path}/none.sock") as client:
        with pytest.raises(CallFailed) as failed:
            await client.catalog.service_info()
    assert failed.value.reason == "DAEMON_UNREACHABLE"
    assert "imsd serve" in failed.value.hint


async def test_a_failed_and_a_cancelled_job_are_exceptions_with_the_job(
    client: ImsClient, daemon: FakeDaemon
) -> None:
    failed = daemon.add_job(job_pb2.JOB_STATE_FAIL)
    failed.error.reason, failed.error.message, failed.error.hint = (
        "IMAGE_TRUNCATED",
        "cut short",
        "copy again",
    )
    with pytest.raises(JobFailed) as failure:
        await client.jobs.wait_for_job(failed.id)
    assert (failure.value.reason, failure.value.hint) == ("IMAGE_TRUNCATED", "copy again")
    assert failure.value.job.id == failed.id
    cancelled = daemon.add_job(job_pb2.JOB_STATE_CANCELLED)
    with pytest.raises(JobCancelled):
        await client.jobs.wait_for_job(cancelled.id)


async def test_waiting_for_a_job_bridges_a_restart_and_reports_every_state_seen(
    client: ImsClient, daemon: FakeDaemon
) -> None:
    job = daemon.add_job(job_pb2.JOB_STATE_RUNNING)
    seen: list[job_pb2.JobState.ValueType] = []
    waiting = asyncio.create_task(client.jobs.wait_for_job(job.id, lambda state: seen.append(state.state)))
    while not seen:
        await asyncio.sleep(0.01)
    await daemon.stop()
    await asyncio.sleep(0.3)
    job.state = job_pb2.JOB_STATE_SUCCESS
    await daemon.start()
    assert (await waiting).id == job.id
    assert seen[0] == job_pb2.JOB_STATE_RUNNING
    assert seen[-1] == job_pb2.JOB_STATE_SUCCESS


async def test_patience_ends(client: ImsClient, daemon: FakeDaemon) -> None:
    job = daemon.add_job(job_pb2.JOB_STATE_RUNNING)
    await daemon.stop()
    with pytest.raises(CallFailed) as failed:
        await client.jobs.wait_for_job(job.id, patience_seconds=0.3)
    assert failed.value.reason == "DAEMON_UNREACHABLE"


async def test_only_what_may_pass_is_tried_again() -> None:
    attempts = []

    async def refused() -> None:
        attempts.append(1)
        raise CallFailed("NOT_FOUND", "no")

    with pytest.raises(CallFailed):
        await patiently(refused)
    assert len(attempts) == 1

    async def unavailable_twice() -> str:
        attempts.append(1)
        if len(attempts) < 4:
            raise CallFailed("UNAVAILABLE", "stopping")
        return "done"

    assert await patiently(unavailable_twice, Backoff(10, jitter=lambda: 0.0)) == "done"


@pytest.mark.parametrize(("failures", "told"), [(1, []), (2, ["begin", "end"]), (4, ["begin", "end"])])
async def test_an_outage_is_told_once_unless_the_next_call_gets_through(
    failures: int, told: Sequence[str]
) -> None:
    outages, seen, left = Outages(), list[str](), [failures]
    outages.on_begin = lambda error, seconds: seen.append("begin")
    outages.on_end = lambda: seen.append("end")

    async def failing() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise CallFailed("DAEMON_UNREACHABLE", "nobody answers")

    await patiently(failing, Backoff(10, jitter=lambda: 0.0, outages=outages))
    assert seen == told


async def test_a_row_shows_no_rate_while_the_daemon_is_away(client: ImsClient) -> None:
    shown = list[Snapshot]()

    class View(NoProgress):
        def show(self, snapshot: Snapshot) -> None:
            shown.append(snapshot)

    row = OutageNotes(client, View())
    row.show(Snapshot("upload", 50, 5, 10, rate=1.0, eta_seconds=5.0))
    client.outages.begin(CallFailed("STORE_UNAVAILABLE", "the store is away"), 120)
    assert shown[-1] == Snapshot("upload", 50, 5, 10, note="waiting for the daemon")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("/run/x.sock", "unix:/run/x.sock"),
        ("host.example:7070", "host.example:7070"),
        ("[::1]:7070", "[::1]:7070"),
    ],
)
def test_addresses_are_understood(text: str, target: str) -> None:
    assert parse_address(text) == target


@pytest.mark.parametrize("text", ["", "host", "host:", "host:99999", "unix:", "http://x:1", "a b:1"])
def test_other_texts_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text)


def test_the_default_socket_depends_on_the_user(tmp_path: Path) -> None:
    assert socket_candidates({}, 0, tmp_path) == [Path("/run/imsd/imsd.sock")]
    candidates = socket_candidates({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, tmp_path)
    assert candidates == [
        Path("/run/user/7/imsd.sock"),
        tmp_path / ".local/state/imsd/imsd.sock",
        Path("/run/imsd/imsd.sock"),
    ]
    assert default_address({"IMSD_ADDRESS": "h:1"}) == "h:1"
