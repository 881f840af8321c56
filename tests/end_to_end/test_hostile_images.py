"""Files made to do harm, through the whole daemon: each refused for its own reason, nothing left."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk

VECTORS = Path(__file__).parents[1] / "unit" / "formats" / "vectors"

# What a reader finds in a file of a format it reads: told by the job.
BY_THE_JOB = {
    "qcow1-aes.qcow": "IMAGE_ENCRYPTED",
    "qcow2-100PiB.qcow2": "IMAGE_TOO_LARGE",
    "qcow2-backing-hostfile.qcow2": "IMAGE_BACKING_FILE",
    "qcow2-backing-json.qcow2": "IMAGE_BACKING_FILE",
    "qcow2-backing-nbd-url.qcow2": "IMAGE_BACKING_FILE",
    "qcow2-external-data-file.qcow2": "IMAGE_EXTERNAL_DATA_FILE",
    "qcow2-luks.qcow2": "IMAGE_ENCRYPTED",
    "vdi-type4-diff.vdi": "IMAGE_BACKING_FILE",
}
# Formats without a reader: told at the first bytes.
AT_THE_FIRST_BYTES = {path.stem for path in VECTORS.glob("*.gz")} - set(BY_THE_JOB)


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


def vector(name: str) -> bytes:
    return gzip.decompress((VECTORS / f"{name}.gz").read_bytes())


async def failed_job(stubs: Stubs, content: bytes, **fields: int) -> job_pb2.JobError:
    upload = await wire.send(stubs, content, **fields)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload, **fields))
    assert job.state == job_pb2.JOB_STATE_FAIL, job
    assert job.progress.phase != "queued"
    return job.error


async def refusal(stubs: Stubs, content: bytes, **fields: int) -> str:
    """The reason why writing the first bytes of ``content`` fails."""
    upload = await wire.open_upload(stubs, size_bytes=len(content), **fields)
    # A file shorter than a message is judged at the flush; one message must be the last in both cases.
    steps = wire.steps_of(content) if len(content) < wire.MESSAGE else wire.steps_of(content)[:1]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload), *steps])
    return wire.reason_of(refused.value)


async def nothing_is_left(daemon: DaemonProcess, stubs: Stubs) -> None:
    assert not await wire.images_of(stubs)
    await wire.becomes_empty(daemon)
    async with asyncio.timeout(10):
        while await wire.uploads_of(stubs):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("name", BY_THE_JOB)
async def test_a_hostile_file_is_refused_by_its_job_and_leaves_nothing(
    shared: DaemonProcess, stubs: Stubs, name: str, is_declared: bool
) -> None:
    suffix = name.rpartition(".")[2].upper()
    declared = {"disk_format": image_pb2.DiskFormat.Value(f"DISK_FORMAT_{suffix}")} if is_declared else {}
    error = await failed_job(stubs, vector(name), **declared)
    assert error.reason == BY_THE_JOB[name]
    assert error.message
    assert error.hint
    await nothing_is_left(shared, stubs)


@pytest.mark.parametrize("name", sorted(AT_THE_FIRST_BYTES))
async def test_a_file_without_a_reader_is_refused_at_its_first_bytes_and_leaves_nothing(
    shared: DaemonProcess, stubs: Stubs, name: str
) -> None:
    assert await refusal(stubs, vector(name)) == "FORMAT_UNSUPPORTED"
    await nothing_is_left(shared, stubs)


@pytest.mark.parametrize("name", sorted([*BY_THE_JOB, *AT_THE_FIRST_BYTES]))
async def test_no_hostile_file_becomes_a_raw_disk(shared: DaemonProcess, stubs: Stubs, name: str) -> None:
    """Declared as RAW, which never needs a reader: what a file is decides, not what is said of it."""
    reason = await refusal(stubs, vector(name), disk_format=image_pb2.DISK_FORMAT_RAW)
    assert reason in ("FORMAT_MISMATCH", "FORMAT_UNSUPPORTED")
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
    hostile = await failed_job(stubs, vector("qcow2-luks.qcow2"))
    assert hostile.reason == "IMAGE_ENCRYPTED"
    disk = patterned_disk(MIB)
    image = await wire.import_disk(stubs, disk)
    assert await wire.download(stubs, image.id) == disk
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=image.id))
    await nothing_is_left(shared, stubs)
