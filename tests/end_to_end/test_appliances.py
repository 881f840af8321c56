"""OVA packages of disks that qemu-img wrote, with a real daemon: imported, killed, cancelled."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, patterned_disk, qemu_img, random_disk
from tests.packages import ova
from tests.web_server import WebFile, WebServer

StartDaemon = Callable[..., DaemonProcess]
SIZE = 32 * MIB


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


def as_vmdk(folder: Path, disk: bytes, subformat: str = "streamOptimized") -> bytes:
    raw, vmdk = folder / "disk.raw", folder / "disk.vmdk"
    raw.write_bytes(disk)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, vmdk)
    return vmdk.read_bytes()


@pytest.fixture(scope="module")
def disks() -> list[bytes]:
    return [random_disk(SIZE, 1), patterned_disk(SIZE, 2), random_disk(SIZE, 3)]


@pytest.fixture(scope="module")
def package(disks: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two disks that are stored from where they lie, one between them that is unpacked first."""
    folder = tmp_path_factory.mktemp("package")
    kinds = ("streamOptimized", "monolithicSparse", "streamOptimized")
    files = [as_vmdk(folder, disk, kind) for disk, kind in zip(disks, kinds, strict=True)]
    files[1] = gzip.compress(files[1], 1)
    return ova({f"app-disk{number}.vmdk": file for number, file in enumerate(files, 1)})


async def taking_out(stubs: Stubs, job: job_pb2.Job, number: int) -> job_pb2.Job:
    """Wait until a part of disk ``number`` was taken out of the package.

    Asked again and again: a watch tells no more than ten states a second.
    """
    while True:
        now: job_pb2.Job = await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=job.id))
        assert now.state not in wire.FINAL, now
        if not now.sub_job_ids:
            continue
        part = await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=now.sub_job_ids[number - 1]))
        if part.progress.phase in ("unpack", "store") and part.progress.bytes_done >= 8 * MIB:
            return now


async def require_disks(stubs: Stubs, job: job_pb2.Job, disks: list[bytes]) -> None:
    done = await wire.ended(stubs, job)
    assert done.state == job_pb2.JOB_STATE_SUCCESS, done
    assert len(done.image_ids) == len(done.sub_job_ids) == len(disks)
    for image_id, disk in zip(done.image_ids, disks, strict=True):
        assert await wire.download(stubs, image_id) == disk
    for sub_job in done.sub_job_ids:
        part = await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=sub_job))
        assert (part.state, part.parent_job_id) == (job_pb2.JOB_STATE_SUCCESS, job.id)


def test_imsctl_imports_a_package_and_prints_all_images(
    daemon: DaemonProcess, package: bytes, disks: list[bytes], tmp_path: Path
) -> None:
    file, copy = tmp_path / "appliance.ova", tmp_path / "copy.raw"
    file.write_bytes(package)
    images = json.loads(
        daemon.imsctl("image", "import", str(file), "--name", "app", "--tag", "a=b", "-o", "json").stdout
    )
    assert [image["name"] for image in images] == ["app", "app-disk2", "app-disk3"]
    assert [image["tags"] for image in images] == [{"a": "b"}] * 3
    assert {image["os_version"] for image in images} == {"Debian 12"}
    daemon.imsctl("image", "download", "app-disk3", "-o", str(copy))
    assert copy.read_bytes() == disks[2]
    jobs = daemon.imsctl_json("job", "list")
    parent = next(job for job in jobs if job["sub_job_ids"])
    shown = daemon.imsctl("job", "show", parent["id"]).stdout
    assert all(job_id in shown for job_id in parent["sub_job_ids"])
    assert parent["id"] in daemon.imsctl("job", "show", parent["sub_job_ids"][1]).stdout


def test_a_package_is_inspected_and_converted_without_the_daemon(
    daemon: DaemonProcess, package: bytes, disks: list[bytes], tmp_path: Path
) -> None:
    file, copy = tmp_path / "appliance.ova", tmp_path / "copy.raw"
    file.write_bytes(package)
    found = daemon.imsctl_json("image", "inspect", str(file))
    assert [disk["member"] for disk in found["disks"]] == [f"app-disk{number}.vmdk" for number in (1, 2, 3)]
    assert {disk["virtual_size"] for disk in found["disks"]} == {SIZE}
    assert "disk 2: app-disk2.vmdk" in daemon.imsctl("image", "inspect", str(file)).stdout
    refused = daemon.imsctl("image", "convert", str(file), str(copy), check=False)
    assert refused.returncode == 1
    assert "--disk N" in refused.stderr
    daemon.imsctl("image", "convert", str(file), str(copy), "--disk", "2")
    assert copy.read_bytes() == disks[1]


async def test_a_package_needs_no_second_place_among_the_jobs(
    start_with_web: StartDaemon, web: WebServer, package: bytes, disks: list[bytes]
) -> None:
    daemon = start_with_web(max_running_create_jobs=1)
    async with connected(daemon) as stubs:
        url = web.offer("/appliance.ova", WebFile(package))
        job = await stubs.images.CreateImage(image_pb2.CreateImageRequest(name="app", url=url))
        await require_disks(stubs, job, disks)
        await wire.becomes_empty(daemon, "staging/")
        assert len(await wire.images_of(stubs)) == len(disks)


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_kill_in_the_middle_of_a_disk_loses_nothing(
    start_daemon: StartDaemon, package: bytes, disks: list[bytes], number: int
) -> None:
    daemon = start_daemon(upload_part_bytes=2 * MIB)
    async with connected(daemon) as stubs:
        job = await wire.start_image(stubs, await wire.send(stubs, package))
        await taking_out(stubs, job, number)
    daemon.kill()
    daemon.restart()
    async with connected(daemon) as stubs:
        await require_disks(stubs, job, disks)
        await wire.becomes_empty(daemon, "staging/")
        assert sum(daemon.blobs("packs/").values()) <= 3 * SIZE * 1.01, "chunks were stored twice"


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_cancelled_package_leaves_nothing(
    start_daemon: StartDaemon, package: bytes, number: int
) -> None:
    daemon = start_daemon(upload_part_bytes=2 * MIB)
    async with connected(daemon) as stubs:
        job = await wire.start_image(stubs, await wire.send(stubs, package))
        now = await taking_out(stubs, job, number)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=now.sub_job_ids[0]))
        assert wire.reason_of(refused.value) == "FAILED_PRECONDITION"
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
        assert (daemon.blobs(), daemon.rows()) == ({}, {})


async def test_a_package_that_was_changed_becomes_no_image(start_daemon: StartDaemon, package: bytes) -> None:
    daemon = start_daemon()
    changed = bytearray(package)
    changed[len(package) // 2] ^= 1
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, await wire.start_image(stubs, await wire.send(stubs, bytes(changed))))
        assert (done.state, done.error.reason) == (job_pb2.JOB_STATE_FAIL, "DIGEST_MISMATCH")
        assert not await wire.images_of(stubs)
        await wire.leaves_nothing(daemon)
