"""`imsctl image register` and RegisterImage with a real daemon: bytes for images that wait for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk
from tests.web_server import WebFile, WebServer

StartDaemon = Callable[..., DaemonProcess]
DISK = patterned_disk(6 * MIB)
ABOUT = ("--tag", "team=core", "--description", "a box", "--os-version", "Debian GNU/Linux 12.0.0 64bit")


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


def queued(daemon: DaemonProcess, name: str = "box", *options: str) -> Any:
    return daemon.imsctl_json("image", "create-queued", "--name", name, *ABOUT, *options)


def without_passing(image: dict[str, Any]) -> dict[str, Any]:
    """What stays of an image while files fail to fill it."""
    return {key: value for key, value in image.items() if key not in ("updated_at", "etag", "job_id")}


def test_a_waiting_image_gets_its_bytes_in_every_way(start_daemon: StartDaemon, tmp_path: Path) -> None:
    file = tmp_path / "disk.qcow2"
    file.write_bytes(as_qcow2(tmp_path, DISK))
    daemon = start_daemon(import_roots=tmp_path)
    (daemon.state_dir / "bucket" / "Disk").write_bytes(file.read_bytes())
    digest = daemon.imsctl_json("image", "digest", str(file))["digest"]
    ways = ([str(file)], ["--send-bytes", str(file)], ["-"], ["--on-server", str(file)])
    for number, source in enumerate((*ways, ["--from-bucket", "main:Disk"])):
        image = queued(daemon, f"box-{number}", "--format", "qcow2")
        with file.open("rb") as stdin:
            told = daemon.imsctl("image", "register", image["id"], *source, "-o", "json", stdin=stdin).stdout
        filled = json.loads(told)
        assert (filled["id"], filled["status"], filled["digest"]) == (image["id"], "active", digest)
        for field in ("name", "tags", "description", "os_version", "created_at"):
            assert filled[field] == image[field]
    assert daemon.blobs("staging/") == {}


def test_a_file_that_is_no_good_leaves_it_waiting(daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "bad.vmdk").write_bytes(b"KDMV" + bytes(70000))
    (tmp_path / "disk.raw").write_bytes(DISK)
    image = queued(daemon)
    for command, reason in (
        (["box", str(tmp_path / "bad.vmdk")], "FORMAT_UNSUPPORTED"),
        (["box", "--from-bucket", "main:none"], "OBJECT_NOT_FOUND"),
        (["box", "https://127.0.0.1/disk"], "URL_REFUSED"),
        (["box", str(tmp_path / "disk.raw"), "--sha256", "0" * 64], "DIGEST_MISMATCH"),
        (["nothing", str(tmp_path / "disk.raw")], "NOT_FOUND"),
    ):
        refused = daemon.imsctl("image", "register", *command, check=False)
        assert refused.returncode == 1
        assert f"[{reason}]" in refused.stderr
        now = daemon.imsctl_json("image", "show", "box")
        assert without_passing(now) == without_passing(image)
    daemon.imsctl("image", "register", "box", str(tmp_path / "disk.raw"))
    again = daemon.imsctl("image", "register", "box", str(tmp_path / "disk.raw"), check=False)
    assert "it has its bytes [FAILED_PRECONDITION]" in again.stderr
    assert daemon.imsctl_json("upload", "list") == []


def test_wrong_usage_is_told(daemon: DaemonProcess) -> None:
    for command in (
        ["box"],
        ["box", "file:///x"],
        ["box", "--from-bucket", "x"],
        ["box", "--on-server", "x"],
    ):
        assert daemon.imsctl("image", "register", *command, check=False).returncode == 2


async def test_ctrl_c_leaves_an_image_that_waits(
    start_with_web: StartDaemon, web: WebServer, tmp_path: Path
) -> None:
    page = WebFile(random_disk(24 * MIB))
    url = web.offer("/disk", lambda seen: replace(page(seen), pause_seconds=0.05))
    daemon = start_with_web(upload_part_bytes=MIB)
    image = await asyncio.to_thread(queued, daemon)
    environment = os.environ | {"IMSD_ADDRESS": daemon.address, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "imsctl", "image", "register", "box", url]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        while not daemon.blobs("packs/"):
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = await process.communicate()
    assert (process.returncode, output) == (130, b"")
    assert b"is cancelled and left nothing behind [CANCELLED]" in errors
    now = await asyncio.to_thread(daemon.imsctl_json, "image", "show", "box")
    assert without_passing(now) == without_passing(image)
    assert daemon.blobs() == {}
    (tmp_path / "disk.raw").write_bytes(DISK)
    await asyncio.to_thread(daemon.imsctl, "image", "register", "box", str(tmp_path / "disk.raw"))


async def test_a_kill_while_it_is_filled_costs_nothing(start_daemon: StartDaemon, tmp_path: Path) -> None:
    disk = random_disk(160 * MIB)
    daemon = start_daemon()
    image = queued(daemon)
    async with connected(daemon) as stubs:
        upload = await wire.send(stubs, as_qcow2(tmp_path, disk))
        request = image_pb2.RegisterImageRequest(image_id=image["id"], upload_id=upload.id)
        job = await stubs.images.RegisterImage(request)
        async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
            assert now.state not in wire.FINAL, now
            if now.progress.phase == "store" and now.progress.bytes_done >= 32 * MIB:
                break
    daemon.kill()
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert (done.state, done.attempt) == (job_pb2.JOB_STATE_SUCCESS, 2), done
        assert list(done.image_ids) == [image["id"]]
        assert await wire.download(stubs, image["id"]) == disk
    assert daemon.imsctl_json("image", "show", "box")["tags"] == {"team": "core"}


async def test_a_second_job_and_a_deletion_are_refused_while_one_fills_it(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    page = WebFile(DISK)
    url = web.offer("/disk", lambda seen: replace(page(seen), pause_seconds=0.2))
    async with connected(start_with_web()) as stubs:
        image = await stubs.images.CreateQueuedImage(image_pb2.CreateQueuedImageRequest(name="box"))
        request = image_pb2.RegisterImageRequest(image_id=image.id, url=url)
        job = await stubs.images.RegisterImage(request)
        delete = image_pb2.DeleteImageRequest(image_id=image.id)
        for call, asked in ((stubs.images.RegisterImage, request), (stubs.images.DeleteImage, delete)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(asked)
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_SUCCESS
