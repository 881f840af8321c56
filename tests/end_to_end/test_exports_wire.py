"""Exports with a real daemon: every format as QEMU and our readers see it, crashes, cancelling, refusals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, patterned_disk, qemu_img, random_disk

StartDaemon = Callable[..., DaemonProcess]
DISK = patterned_disk(24 * MIB)
QEMU = {"qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc"}


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


def bucket_of(daemon: DaemonProcess) -> Path:
    return daemon.state_dir / "bucket"


def objects(daemon: DaemonProcess) -> list[str]:
    folder = bucket_of(daemon)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def export(stubs: Stubs, image: image_pb2.Image, **fields: Any) -> job_pb2.Job:
    request = image_pb2.ExportImageRequest(**({"image_id": image.id, "target": "main:disk"} | fields))
    job: job_pb2.Job = await stubs.images.ExportImage(request)
    return job


async def refusal(stubs: Stubs, image: image_pb2.Image, **fields: Any) -> tuple[str, str]:
    """Reason and IMG code."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(stubs, image, **fields)
    status, info = rpc_status.from_call(refused.value), error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert info.metadata["hint"]
    return info.reason, info.metadata["img_code"]


def test_a_newcomer_exports_an_image_in_every_format(daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(DISK)
    image = daemon.imsctl_json("image", "import", str(tmp_path / "disk.raw"), "--name", "debian")
    for suffix in ("qcow2", "vmdk", "vhd", "zvhd", "zvhd2"):
        job = daemon.imsctl_json("image", "export", "debian", f"main:images/Debian.{suffix}")
        report = job["export_report"]
        file = bucket_of(daemon) / "images" / f"Debian.{suffix}"
        assert report["target"] == f"main:images/Debian.{suffix}"
        assert report["size"] == file.stat().st_size
        assert report["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        found = daemon.imsctl_json("image", "digest", str(file))
        assert (found["digest"], found["disk_format"]) == (image["digest"], suffix)
        if suffix in QEMU:
            compared = ("compare", "-f", QEMU[suffix], "-F", "raw", file, tmp_path / "disk.raw")
            assert "identical" in qemu_img(*compared)
    listed = [each["name"] for each in daemon.imsctl_json("object", "list", "main")]
    assert listed == [f"images/Debian.{suffix}" for suffix in ("qcow2", "vhd", "vmdk", "zvhd", "zvhd2")]
    told = daemon.imsctl("image", "export", "debian", "main:again", "--format", "qcow2").stdout
    assert "main:again" in told
    assert "sha256" in told
    assert daemon.imsctl("image", "export", "debian", "main:fast", "--fast").returncode == 0
    for arguments in (["main:nothing"], ["main:x.raw"], ["main:x", "--fast", "--format", "qcow2"]):
        refused = daemon.imsctl("image", "export", "debian", *arguments, check=False)
        assert refused.returncode == 2, refused
    again = daemon.imsctl("image", "export", "debian", "main:fast", "--fast", check=False)
    assert again.returncode == 1
    assert "[OBJECT_EXISTS]" in again.stderr


async def test_an_exported_image_comes_in_again_as_the_same_disk(daemon: DaemonProcess, stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, DISK)
    wanted: list[dict[str, Any]] = [{"is_fast": True}, {"disk_format": image_pb2.DISK_FORMAT_VMDK}]
    for number, fields in enumerate(wanted):
        job = await wire.ended(stubs, await export(stubs, image, target=f"main:{number}", **fields))
        assert job.state == job_pb2.JOB_STATE_SUCCESS, job
        request = image_pb2.CreateImageRequest(name="back", object=f"main:{number}")
        back = await wire.ended(stubs, await stubs.images.CreateImage(request))
        found = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=back.image_ids[0]))
        assert found.digest == image.digest
        assert found.new_size_bytes == 0


async def test_what_cannot_be_exported_is_refused_with_the_services_code(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "imsd.toml"
    sections = {
        "main": 'projects = ["*"]',
        "shown": 'projects = ["*"]\nread_only = true',
        "far": 'projects = ["*"]\nregion = "far"',
        "cold": 'projects = ["*"]\nstorage_class = "cold"',
        "web-only": 'projects = ["web"]',
    }
    text = "[limits]\nmax_export_bytes = '1MiB'\nmax_fast_export_bytes = '4MiB'\n"
    for name, said in sections.items():
        (tmp_path / name).mkdir()
        text += f'[buckets.{name}]\ndriver = "localfs"\npath = "{tmp_path / name}"\n{said}\n'
    config.write_text(text)
    daemon = start_daemon(config=config)
    async with connected(daemon) as stubs:
        small = await wire.import_disk(stubs, random_disk(MIB))
        middle = await wire.import_disk(stubs, random_disk(2 * MIB), name="middle")
        large = await wire.import_disk(stubs, random_disk(4 * MIB), name="large")
        qcow2: dict[str, Any] = {"disk_format": image_pb2.DISK_FORMAT_QCOW2}
        expected: list[tuple[image_pb2.Image, dict[str, Any], tuple[str, str]]] = [
            (small, {}, ("INVALID_REQUEST", "")),
            (small, {"disk_format": image_pb2.DISK_FORMAT_RAW}, ("FORMAT_UNSUPPORTED", "IMG.0072")),
            (small, {"is_fast": True, **qcow2}, ("INVALID_REQUEST", "")),
            (small, {"target": ":disk", **qcow2}, ("BUCKET_NAME_EMPTY", "IMG.0068")),
            (small, {"target": "ma in:disk", **qcow2}, ("BUCKET_NAME_INVALID", "IMG.0109")),
            (small, {"target": "other:disk", **qcow2}, ("BUCKET_NOT_FOUND", "IMG.0069")),
            (small, {"target": "web-only:disk", **qcow2}, ("BUCKET_NOT_FOUND", "IMG.0069")),
            (small, {"target": "main:", **qcow2}, ("OBJECT_NAME_EMPTY", "IMG.0073")),
            (small, {"target": "main:" + "x" * 256, **qcow2}, ("OBJECT_NAME_TOO_LONG", "IMG.0074")),
            (small, {"target": "main:dïsk", **qcow2}, ("OBJECT_NAME_INVALID", "IMG.0075")),
            (small, {"target": "main:my disk", **qcow2}, ("OBJECT_NAME_HAS_SPACE", "IMG.0175")),
            (small, {"target": "far:disk", **qcow2}, ("BUCKET_UNSUITED", "IMG.0058")),
            (small, {"target": "cold:disk", **qcow2}, ("BUCKET_UNSUITED", "IMG.0058")),
            (small, {"target": "shown:disk", **qcow2}, ("STORE_READ_ONLY", "")),
            (middle, qcow2, ("EXPORT_TOO_LARGE", "IMG.0160")),
            (large, {"is_fast": True}, ("EXPORT_TOO_LARGE", "IMG.0160")),
        ]
        for image, fields, reason_and_code in expected:
            assert await refusal(stubs, image, **fields) == reason_and_code
        for image, fields in ((small, qcow2), (middle, {"is_fast": True, "target": "main:fast"})):
            job = await wire.ended(stubs, await export(stubs, image, **fields))
            assert job.state == job_pb2.JOB_STATE_SUCCESS, job
        assert await refusal(stubs, small, **qcow2) == ("OBJECT_EXISTS", "IMG.0070")
        assert await refusal(stubs, small, target="main:disk/x", **qcow2) == ("OBJECT_EXISTS", "IMG.0070")


async def writing(stubs: Stubs, job: job_pb2.Job) -> None:
    """Watch until the file flows."""
    async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
        if now.progress.phase == "export" and now.progress.bytes_done > 8 * MIB:
            return
        assert now.state not in wire.FINAL, now


async def test_a_kill_during_an_export_leaves_no_part_of_it_and_the_next_run_makes_it(
    start_daemon: StartDaemon,
) -> None:
    disk = random_disk(160 * MIB)
    daemon = start_daemon()
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, disk)
        job = await export(stubs, image, disk_format=image_pb2.DISK_FORMAT_VMDK)
        await writing(stubs, job)
    daemon.kill()
    assert objects(daemon) == []
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert (done.state, done.attempt) == (job_pb2.JOB_STATE_SUCCESS, 2), done
    file = bucket_of(daemon) / "disk"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == done.export_report.sha256
    assert daemon.imsctl_json("image", "digest", str(file))["digest"] == image.digest


async def test_a_cancelled_export_leaves_nothing(daemon: DaemonProcess, stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(160 * MIB))
    before = daemon.blobs("packs/")
    job = await export(stubs, image, disk_format=image_pb2.DISK_FORMAT_VMDK)
    await writing(stubs, job)
    await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
    assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
    assert (objects(daemon), daemon.blobs("packs/")) == ([], before)


def test_ctrl_c_leaves_nothing(daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(random_disk(160 * MIB))
    daemon.imsctl("image", "import", str(tmp_path / "disk.raw"), "--name", "large")
    process = subprocess.Popen(
        [sys.executable, "-m", "imsctl", "image", "export", "large", "main:large.vmdk"],
        env=os.environ | {"IMSD_ADDRESS": daemon.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not any(job["phase"] == "export" for job in daemon.imsctl_json("job", "list")):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert "is cancelled and left nothing behind [CANCELLED]" in errors
    assert objects(daemon) == []


async def test_two_formats_of_one_image_are_exported_at_once(daemon: DaemonProcess, stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, DISK)
    formats = (image_pb2.DISK_FORMAT_QCOW2, image_pb2.DISK_FORMAT_VHD)
    jobs = [await export(stubs, image, target=f"main:{number}", disk_format=number) for number in formats]
    done = await asyncio.gather(*(wire.ended(stubs, job) for job in jobs))
    assert {job.state for job in done} == {job_pb2.JOB_STATE_SUCCESS}
    told = json.loads(daemon.imsctl("job", "show", jobs[0].id, "-o", "json").stdout)
    assert told["export_report"]["target"] == f"main:{formats[0]}"
    assert told["kind"] == "export_image"
