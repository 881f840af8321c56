"""Files made to do harm, through the whole daemon: each refused for its own reason, nothing left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk
from tests.unit.formats.test_hostile_files import EXPECTED, content


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path_factory.mktemp("imsd"))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
async def stubs(shared: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(shared.address) as channel:
        yield Stubs(channel)


async def failed_job(stubs: Stubs, content: bytes, **fields: int) -> job_pb2.JobError:
    upload = await wire.send(stubs, content, **fields)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload, **fields))
    assert job.state == job_pb2.JOB_STATE_FAIL, job
    assert job.progress.phase != "queued"
    return job.error


async def refusal(stubs: Stubs, content: bytes, **fields: int) -> str:
    """Why no image comes of ``content``: told while it is sent, at its commit or by the job."""
    try:
        error = await failed_job(stubs, content, **fields)
    except grpc.aio.AioRpcError as refused:
        return wire.reason_of(refused)
    assert error.message
    assert error.hint
    return error.reason


async def nothing_is_left(daemon: DaemonProcess, stubs: Stubs) -> None:
    assert not await wire.images_of(stubs)
    await wire.becomes_empty(daemon)
    async with asyncio.timeout(10):
        while await wire.uploads_of(stubs):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("name", EXPECTED)
async def test_a_hostile_file_is_refused_for_its_reason_and_leaves_nothing(
    shared: DaemonProcess, stubs: Stubs, name: str, is_declared: bool
) -> None:
    disk_format, reason = EXPECTED[name]
    value = image_pb2.DiskFormat.Value(f"DISK_FORMAT_{disk_format.upper()}")
    declared = {"disk_format": value} if is_declared else {}
    assert await refusal(stubs, content(name), **declared) == reason
    await nothing_is_left(shared, stubs)


@pytest.mark.parametrize("name", EXPECTED)
async def test_no_hostile_file_becomes_a_raw_disk(shared: DaemonProcess, stubs: Stubs, name: str) -> None:
    """Declared as RAW, which never needs a reader: what a file is decides, not what is said of it."""
    reason = await refusal(stubs, content(name), disk_format=image_pb2.DISK_FORMAT_RAW)
    assert reason == "FORMAT_MISMATCH"
    await nothing_is_left(shared, stubs)


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("kept", [0.5, 0.9])
async def test_a_truncated_qcow2_is_refused(
    shared: DaemonProcess, stubs: Stubs, tmp_path: Path, kept: float, is_compressed: bool
) -> None:
    whole = as_qcow2(tmp_path, patterned_disk(4 * MIB), *(["-c"] if is_compressed else []))
    error = await failed_job(stubs, whole[: int(len(whole) * kept) & ~511])
    assert error.reason == "IMAGE_TRUNCATED"
    assert error.hint
    await nothing_is_left(shared, stubs)


async def test_the_daemon_serves_others_after_a_hostile_file(shared: DaemonProcess, stubs: Stubs) -> None:
    hostile = await failed_job(stubs, content("qcow2-luks.qcow2"))
    assert hostile.reason == "IMAGE_ENCRYPTED"
    disk = patterned_disk(MIB)
    image = await wire.import_disk(stubs, disk)
    assert await wire.download(stubs, image.id) == disk
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=image.id, is_final=True))
    await nothing_is_left(shared, stubs)
