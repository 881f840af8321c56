"""Traces of calls that a crash of the daemon cut short, and of those before and after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from imsd.v1 import tag_pb2, trace_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import patterned_disk

StartDaemon = Callable[..., DaemonProcess]
DISK = patterned_disk(1 << 20)


async def listed(stubs: Stubs, **filter: Any) -> list[trace_pb2.Trace]:
    """Newest first."""
    request = trace_pb2.ListTracesRequest(page_size=1000, filter=trace_pb2.TraceFilter(**filter))
    return list((await stubs.traces.ListTraces(request)).traces)


async def verified(stubs: Stubs) -> trace_pb2.VerifyTracesResponse:
    response: trace_pb2.VerifyTracesResponse = await stubs.traces.VerifyTraces(
        trace_pb2.VerifyTracesRequest()
    )
    return response


async def test_a_call_that_a_crash_cut_short_is_traced_as_interrupted(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs, size_bytes=len(DISK), file_name="d.raw")
        never = asyncio.Event()

        async def half() -> AsyncIterator[Any]:
            yield wire.header(upload)
            yield wire.Step(data=DISK[: 1 << 16])
            await never.wait()

        call = stubs.uploads.WriteUpload(half())
        assert (await call.read()).committed_offset == 0
        daemon.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        newest, before = await listed(stubs)
        assert (newest.name, newest.outcome) == ("writeUpload", trace_pb2.TRACE_OUTCOME_INTERRUPTED)
        assert (newest.resource_id, newest.resource_name, newest.reason) == (upload.id, "d.raw", "")
        assert newest.details["began_at"]
        assert (before.name, before.outcome) == ("createUpload", trace_pb2.TRACE_OUTCOME_SUCCEEDED)
        assert (await verified(stubs)).is_intact


@pytest.mark.parametrize("moment", [0.02, 0.1, 0.3])
async def test_every_change_that_survives_a_crash_has_its_trace(daemon: DaemonProcess, moment: float) -> None:
    """Tags are set by many calls at once when the daemon is killed: what is there was traced, done or not."""
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, DISK)
        answered = set()

        async def tag(number: int) -> None:
            request = tag_pb2.SetImageTagsRequest(
                image_id=image.id, tags=[tag_pb2.Tag(key=f"k{number % 7}", value=str(number))]
            )
            await stubs.tags.SetImageTags(request)
            answered.add(str(number))

        calls = [asyncio.create_task(tag(number)) for number in range(150)]
        await asyncio.sleep(moment)
        daemon.kill()
        await asyncio.gather(*calls, return_exceptions=True)
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        found = await listed(stubs, names=["addTag"])
        by_value = {trace.details["tags"].partition("=")[2]: trace for trace in found}
        assert len(by_value) == len(found)
        done = {value for value, t in by_value.items() if t.outcome == trace_pb2.TRACE_OUTCOME_SUCCEEDED}
        assert answered <= done
        tags = await stubs.tags.GetImageTags(tag_pb2.GetImageTagsRequest(image_id=image.id))
        assert {tag.value for tag in tags.tags} <= set(by_value)
        check = await verified(stubs)
        assert (list(check.problems), check.sealed_sequence) == ([], check.last_sequence)


async def test_a_daemon_that_stops_leaves_every_trace_sealed(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        for _ in range(3):
            await wire.open_upload(stubs, size_bytes=1)
    assert daemon.stop() == 0
    sealed = daemon.value("SELECT max(sequence) FROM trace_seal WHERE project_id = 'default'")
    assert sealed == 3 == daemon.value("SELECT sequence FROM trace_chain WHERE project_id = 'default'")
    assert daemon.value("SELECT count(*) FROM trace_intent") == 0


async def test_the_key_of_seals_is_kept_outside_of_the_database(daemon: DaemonProcess) -> None:
    key = daemon.state_dir / "trace-key"
    assert (key.stat().st_mode & 0o777, len(key.read_bytes())) == (0o600, 32)
    daemon.stop()
    stored = b"".join(path.read_bytes() for path in daemon.state_dir.glob("imsd.sqlite3*"))
    assert key.read_bytes() not in stored
    assert key.read_bytes().hex().encode() not in stored


async def test_a_key_that_is_none_stops_the_start(daemon: DaemonProcess) -> None:
    daemon.stop()
    (daemon.state_dir / "trace-key").write_bytes(b"short")
    assert daemon.launch().wait(30) != 0
    assert "is no key: it has 5 bytes" in daemon.log.read_text()
    (daemon.state_dir / "trace-key").unlink()
    daemon.restart()
