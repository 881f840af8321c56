"""Files that were compressed whole, with a real daemon: sent, handed over, fetched, killed in the middle."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import zstandard

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk

StartDaemon = Callable[..., DaemonProcess]
SIZE = 24 * MIB
KILL_SIZE = 96 * MIB


async def unpacking(stubs: Stubs, job: job_pb2.Job, bytes_done: int) -> None:
    """Watch until so much of the packed file is unpacked."""
    async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
        assert now.state not in wire.FINAL, now
        if now.progress.phase == "unpack" and now.progress.bytes_done >= bytes_done:
            return
    raise AssertionError("the watch ended early")


@pytest.mark.parametrize("is_handed_over", [True, False])
def test_a_qcow2_in_gzip_is_imported(daemon: DaemonProcess, tmp_path: Path, is_handed_over: bool) -> None:
    disk = patterned_disk(SIZE)
    packed, copy = tmp_path / "disk.qcow2.gz", tmp_path / "copy.raw"
    packed.write_bytes(gzip.compress(as_qcow2(tmp_path, disk), 1))
    how = [] if is_handed_over else ["--send-bytes"]
    daemon.imsctl("image", "import", str(packed), "--name", "disk", "--format", "qcow2", *how)
    image = daemon.imsctl_json("image", "show", "disk")
    assert image["disk_format"] == "qcow2"
    assert "UNPACKED_FROM" in [finding["code"] for finding in image["findings"]]
    daemon.imsctl("image", "download", "disk", "-o", str(copy))
    assert copy.read_bytes() == disk
    digest = daemon.imsctl_json("image", "digest", str(packed))
    assert digest["digest"] == image["digest"]


def test_a_zvhd_in_xz_is_imported(daemon: DaemonProcess, tmp_path: Path) -> None:
    disk, packed = patterned_disk(4 * MIB), tmp_path / "disk.zvhd.xz"
    raw, zvhd = tmp_path / "disk.raw", tmp_path / "disk.zvhd"
    raw.write_bytes(disk)
    daemon.imsctl("image", "convert", str(raw), str(zvhd), "--to", "zvhd")
    packed.write_bytes(lzma.compress(zvhd.read_bytes(), preset=0))
    daemon.imsctl("image", "import", str(packed), "--name", "disk")
    image = daemon.imsctl_json("image", "show", "disk")
    assert (image["disk_format"], image["virtual_size"]) == ("zvhd", len(disk))
    assert image["digest"] == daemon.imsctl_json("image", "digest", str(raw))["digest"]


@pytest.mark.parametrize("is_qcow2", [False, True])
async def test_a_kill_in_the_middle_of_unpacking_loses_nothing(
    start_daemon: StartDaemon, tmp_path: Path, is_qcow2: bool
) -> None:
    disk = random_disk(KILL_SIZE)
    packed = zstandard.compress(as_qcow2(tmp_path, disk) if is_qcow2 else disk, 1)
    daemon = start_daemon(upload_part_bytes=4 * MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        job = await wire.start_image(stubs, await wire.send(stubs, packed))
        await unpacking(stubs, job, 24 * MIB)
    daemon.kill()
    unpacked = "SELECT max(committed_offset) FROM upload WHERE state = 'open'"
    assert daemon.value(unpacked) >= 8 * MIB
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        done = await wire.ended(stubs, job)
        assert (done.state, done.attempt) == (job_pb2.JOB_STATE_SUCCESS, 2), done
        assert await wire.download(stubs, done.image_ids[0]) == disk
        image = (await wire.images_of(stubs))[0]
        wanted = image_pb2.DISK_FORMAT_QCOW2 if is_qcow2 else image_pb2.DISK_FORMAT_RAW
        assert image.disk_format == wanted
        await wire.becomes_empty(daemon, "staging/")
        assert sum(daemon.blobs("packs/").values()) <= KILL_SIZE * 1.01, "chunks were stored twice"


async def test_a_cancelled_job_leaves_nothing_of_what_it_unpacked(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(upload_part_bytes=4 * MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        packed = zstandard.compress(random_disk(KILL_SIZE), 1)
        job = await wire.start_image(stubs, await wire.send(stubs, packed))
        await unpacking(stubs, job, 16 * MIB)
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
        assert (daemon.blobs(), daemon.rows()) == ({}, {})


async def test_a_bomb_fills_neither_memory_nor_store(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(max_upload_size_bytes=1 << 30)
    before = daemon.peak_memory_bytes()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        bomb = zstandard.ZstdCompressor(1).compress(bytes(1 << 26)) * 17
        done = await wire.ended(stubs, await wire.start_image(stubs, await wire.send(stubs, bomb)))
        assert (done.state, done.error.reason) == (job_pb2.JOB_STATE_FAIL, "IMAGE_TOO_LARGE")
        await wire.leaves_nothing(daemon)
    assert daemon.peak_memory_bytes() - before < 128 * MIB
