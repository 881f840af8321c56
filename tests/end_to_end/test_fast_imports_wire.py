"""Fast imports with a real daemon: kept as they came, the same disk in every way, crashes, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from imsd.v1 import image_pb2, job_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, patterned_disk, qemu_img, random_disk
from tests.web_server import WebFile, WebServer

GIB = 1 << 30
StartDaemon = Callable[..., DaemonProcess]
DISK = patterned_disk(24 * MIB)
SYSTEM = ("--os-version", "Ubuntu 22.04 Server 64bit")
QEMU = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk"}


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`disk.raw`, `disk.zvhd2` and `disk.qcow2` of one small disk; `large.zvhd2` of one of 160 MiB."""
    folder = tmp_path_factory.mktemp("files")
    for name, disk in (("disk", DISK), ("large", random_disk(160 * MIB))):
        (folder / f"{name}.raw").write_bytes(disk)
        convert(folder / f"{name}.raw", folder / f"{name}.zvhd2")
    convert(folder / "disk.raw", folder / "disk.qcow2")
    yield folder
    for file in folder.iterdir():
        file.unlink()


def convert(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "imsctl", "image", "convert", str(source), str(target)]
    subprocess.run(command, check=True, capture_output=True)


def test_a_fast_import_is_the_same_disk_and_takes_no_more_room_than_the_file(
    daemon: DaemonProcess, files: Path, tmp_path: Path
) -> None:
    digest = daemon.imsctl_json("image", "digest", str(files / "disk.raw"))["digest"]
    for suffix in ("zvhd2", "raw"):
        file = files / f"disk.{suffix}"
        image = daemon.imsctl_json("image", "import", str(file), "--fast", "--name", suffix, *SYSTEM)
        assert (image["status"], image["digest"], image["disk_format"]) == ("active", digest, suffix)
        assert (image["fast_imported"], image["os_version"]) == (True, SYSTEM[1])
        assert image["new_size"] <= file.stat().st_size
        for wanted, name in QEMU.items():
            out = tmp_path / f"{suffix}.{wanted}"
            daemon.imsctl("image", "download", suffix, "-o", str(out))
            compared = ("compare", "-f", name, "-F", "raw", out, files / "disk.raw")
            assert "identical" in qemu_img(*compared)
        report = daemon.imsctl_json("image", "verify", suffix)["verify_report"]
        assert (report["damage_count"], report["digest"]) == (0, digest)
        daemon.imsctl("image", "export", suffix, f"main:{suffix}", "--fast")
        exported = daemon.imsctl_json("image", "digest", str(daemon.state_dir / "bucket" / suffix))
        assert (exported["digest"], exported["disk_format"]) == (digest, "zvhd2")
    assert (daemon.state_dir / "bucket" / "zvhd2").read_bytes() == (files / "disk.zvhd2").read_bytes()


@pytest.mark.parametrize("option", ["--from-bucket", "--on-server", "--send-bytes", "-"])
def test_every_way_leads_to_the_same_records(
    start_daemon: StartDaemon, files: Path, tmp_path: Path, option: str
) -> None:
    daemon = start_daemon(import_roots=files)
    file, source = files / "disk.zvhd2", [option, str(files / "disk.zvhd2")]
    if option == "--from-bucket":
        (daemon.state_dir / "bucket" / "disk").write_bytes(file.read_bytes())
        source = [option, "main:disk"]
    elif option == "-":
        source = ["-"]
    command = ["image", "import", *source, "--fast", "--name", "it", *SYSTEM, "-o", "json"]
    with file.open("rb") as stdin:
        told = daemon.imsctl(*command, stdin=stdin)
    image = json.loads(told.stdout)
    assert (image["status"], image["fast_imported"]) == ("active", True)
    daemon.imsctl("image", "download", "it", "-o", str(tmp_path / "out.zvhd2"))
    assert (tmp_path / "out.zvhd2").read_bytes() == file.read_bytes()
    assert daemon.blobs("staging/") == {}


async def refusal(stubs: Stubs, **fields: Any) -> tuple[str, str]:
    """Reason and IMG code with which a fast import of a disk is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.images.CreateImage(image_pb2.CreateImageRequest(name="x", is_fast=True, **fields))
    status, info = rpc_status.from_call(refused.value), error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert info.metadata["hint"]
    return info.reason, info.metadata["img_code"]


async def test_what_cannot_be_imported_fast_is_refused_with_the_services_code(
    daemon: DaemonProcess, stubs: Stubs, files: Path
) -> None:
    bucket = daemon.state_dir / "bucket"
    (bucket / "disk").write_bytes((files / "disk.qcow2").read_bytes())
    (bucket / "raw").write_bytes(DISK)
    with (bucket / "huge").open("wb") as huge:
        huge.truncate(1024 * GIB + 512)
    system: dict[str, Any] = {"os_version": SYSTEM[1]}
    vmdk = image_pb2.DISK_FORMAT_VMDK
    unsuited, large = ("FAST_IMPORT_UNSUITED", "IMG.0158"), ("IMAGE_FILE_TOO_LARGE", "IMG.0059")
    assert await refusal(stubs, object="main:raw", disk_format=vmdk, **system) == unsuited
    assert await refusal(stubs, object="main:raw") == ("OS_VERSION_REQUIRED", "IMG.0159")
    assert await refusal(stubs, object="main:huge", **system) == large
    request = image_pb2.CreateImageRequest(name="x", object="main:disk", is_fast=True, **system)
    job = await wire.ended(stubs, await stubs.images.CreateImage(request))
    assert (job.error.reason, job.error.img_code) == unsuited
    await wire.becomes_empty(daemon)
    assert not await wire.images_of(stubs)
    upload = await wire.send(stubs, DISK, is_fast=True)
    with pytest.raises(grpc.aio.AioRpcError) as mixed:
        await wire.start_image(stubs, upload)
    assert mixed.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--fast",), "OS_VERSION_REQUIRED"),
        (("--fast", "--kind", "iso", *SYSTEM), "FAST_IMPORT_UNSUITED"),
        (("--kind", "iso"), "ISO_OS_VERSION_REQUIRED"),
        (("--kind", "data-disk", "--license", "byol"), "IMAGE_KIND_UNSUITED"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_before_the_file_is_sent(
    daemon: DaemonProcess, files: Path, options: tuple[str, ...], reason: str
) -> None:
    command = ("image", "import", "--name", "x", "--send-bytes", *options, str(files / "disk.raw"))
    refused = daemon.imsctl(*command, check=False)
    assert refused.returncode == 1
    assert f"[{reason}]" in refused.stderr
    assert daemon.imsctl_json("upload", "list") == []


def test_a_file_above_128_gb_comes_in_fast_only(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "large.raw"
    with file.open("wb") as large:
        large.write(DISK)
        large.truncate(129 * GIB)
    ordinary = daemon.imsctl("image", "import", str(file), "--name", "large", check=False)
    assert ordinary.returncode == 1
    assert "[IMAGE_FILE_TOO_LARGE]" in ordinary.stderr
    assert "fast" in ordinary.stderr
    image = daemon.imsctl_json("image", "import", str(file), "--name", "large", "--fast", *SYSTEM)
    assert (image["status"], image["virtual_size"]) == ("active", 129 * GIB)


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_a_damaged_file_is_refused_and_leaves_nothing(
    daemon: DaemonProcess, files: Path, tmp_path: Path, damage: str
) -> None:
    content = bytearray((files / "disk.zvhd2").read_bytes())
    if damage == "short":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0x40
    (tmp_path / "bad.zvhd2").write_bytes(content)
    for option in ([], ["--send-bytes"]):
        command = [
            "image",
            "import",
            str(tmp_path / "bad.zvhd2"),
            "--fast",
            "--name",
            "bad",
            *SYSTEM,
            *option,
        ]
        refused = daemon.imsctl(*command, check=False)
        assert refused.returncode == 1
        assert "[IMAGE_" in refused.stderr, refused.stderr
    assert daemon.imsctl_json("image", "list") == []


async def test_a_kill_in_the_middle_of_a_fast_upload_costs_one_part_at_most(
    start_daemon: StartDaemon, files: Path
) -> None:
    part, content = 16 * MIB, (files / "large.zvhd2").read_bytes()
    daemon = start_daemon(upload_part_bytes=part)
    sent = asyncio.Event()

    async def requests(upload: upload_pb2.Upload) -> AsyncIterator[wire.Step]:
        yield wire.header(upload)
        for step in wire.steps_of(content)[:100]:
            yield step
        sent.set()
        await asyncio.sleep(60)

    async with connected(daemon) as stubs:
        upload = await wire.open_upload(stubs, size_bytes=len(content), is_fast=True)
        call = stubs.uploads.WriteUpload(requests(upload))
        reading = asyncio.ensure_future(anext(aiter(call)))
        await sent.wait()
        await reading
        daemon.kill()
        call.cancel()
    daemon.restart()
    async with connected(daemon) as stubs:
        again = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
        assert again.committed_offset >= part
        steps = wire.steps_of(content, again.committed_offset)
        await wire.write(stubs, [wire.header(again), *steps])
        job = await wire.start_image(
            stubs, await wire.commit(stubs, upload, len(content)), is_fast=True, os_version=SYSTEM[1]
        )
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert await wire.download(stubs, done.image_ids[0]) == (files / "large.raw").read_bytes()
    assert sum(daemon.blobs("packs/").values()) <= len(content) * 1.01, "records were stored twice"


async def test_a_kill_while_the_daemon_fetches_costs_little_and_nothing_is_stored_twice(
    start_with_web: StartDaemon, web: WebServer, files: Path
) -> None:
    page, pause = WebFile((files / "large.zvhd2").read_bytes()), 0.05
    url = web.offer("/large.zvhd2", lambda seen: replace(page(seen), pause_seconds=pause))
    daemon = start_with_web(upload_part_bytes=8 * MIB)
    async with connected(daemon) as stubs:
        request = image_pb2.CreateImageRequest(name="x", url=url, is_fast=True, os_version=SYSTEM[1])
        job = await stubs.images.CreateImage(request)
        async with asyncio.timeout(60):
            while len(daemon.blobs("packs/")) < 2:
                await asyncio.sleep(0.05)
    daemon.kill()
    pause = 0
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert (done.state, done.attempt) == (job_pb2.JOB_STATE_SUCCESS, 2), done
        found = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=done.image_ids[0]))
    digest = daemon.imsctl_json("image", "digest", str(files / "large.raw"))["digest"]
    assert (found.digest, found.is_fast_imported) == (digest, True)
    assert sum(daemon.blobs("packs/").values()) <= (files / "large.zvhd2").stat().st_size * 1.01


async def test_ctrl_c_while_the_daemon_fetches_leaves_nothing(
    start_with_web: StartDaemon, web: WebServer, files: Path
) -> None:
    page = WebFile((files / "large.zvhd2").read_bytes())
    url = web.offer("/large.zvhd2", lambda seen: replace(page(seen), pause_seconds=0.05))
    daemon = start_with_web(upload_part_bytes=8 * MIB)
    command = [sys.executable, "-m", "imsctl", "image", "import", url, "--fast", "--name", "x", *SYSTEM]
    environment = os.environ | {"IMSD_ADDRESS": daemon.address, "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        while not daemon.blobs("packs/"):
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = await process.communicate()
    assert (process.returncode, output) == (130, b"")
    assert b"is cancelled and left nothing behind [CANCELLED]" in errors
    assert (daemon.blobs(), daemon.rows()) == ({}, {})
