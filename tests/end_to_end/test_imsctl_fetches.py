"""`imsctl image import` of URLs and of files on the daemon's machine, as processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, patterned_disk, random_disk
from tests.web_server import WebFile, WebServer

StartDaemon = Callable[..., DaemonProcess]
DISK = patterned_disk(6 * MIB)


async def start_imsctl(daemon: DaemonProcess, *arguments: str) -> Process:
    """While it runs, this process serves its web pages."""
    environment = os.environ | {"IMSD_ADDRESS": daemon.address, "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "imsctl", "image", "import", *arguments]
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)


async def ended(process: Process) -> tuple[int, str, str]:
    output, errors = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode, output.decode(), errors.decode()


async def imsctl(daemon: DaemonProcess, *arguments: str) -> tuple[int, str, str]:
    return await ended(await start_imsctl(daemon, *arguments))


async def imported(daemon: DaemonProcess, *arguments: str) -> Any:
    code, output, errors = await imsctl(daemon, *arguments, "-o", "json")
    assert code == 0, errors
    return json.loads(output)


async def test_a_url_is_imported(start_with_web: StartDaemon, web: WebServer, tmp_path: Path) -> None:
    url = web.offer("/disk.raw", WebFile(DISK))
    daemon = start_with_web()
    sha256 = hashlib.sha256(DISK).hexdigest()
    image = await imported(daemon, url, "--name", "web", "--tag", "team=core", "--sha256", sha256)
    assert (image["status"], image["virtual_size"], image["tags"]) == ("active", len(DISK), {"team": "core"})
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    assert image["digest"] == daemon.imsctl_json("image", "digest", str(path))["digest"]


async def test_a_file_on_the_daemons_machine_is_imported(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    daemon = start_daemon(import_roots=tmp_path)
    image = await imported(daemon, "--on-server", str(path), "--name", "local")
    assert (image["status"], image["virtual_size"]) == ("active", len(DISK))


async def test_progress_is_shown_while_the_daemon_fetches(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    page = WebFile(random_disk(24 * MIB), has_ranges=False)
    url = web.offer("/disk", lambda seen: replace(page(seen), pause_seconds=0.012))
    code, _, errors = await imsctl(start_with_web(), url, "--name", "web")
    assert code == 0
    assert "fetch" in errors
    assert "MiB of 24 MiB" in errors
    assert "MiB/s" in errors


async def test_ctrl_c_while_the_daemon_fetches_leaves_nothing(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    page = WebFile(random_disk(24 * MIB))
    url = web.offer("/disk", lambda seen: replace(page(seen), pause_seconds=0.05))
    daemon = start_with_web(upload_part_bytes=MIB)
    process = await start_imsctl(daemon, url, "--name", "web")
    async with asyncio.timeout(30):
        while not daemon.blobs("packs/"):
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, output, errors = await ended(process)
    assert (code, output) == (130, "")
    assert "is cancelled and left nothing behind [CANCELLED]" in errors
    assert (daemon.blobs(), daemon.rows()) == ({}, {})


async def test_with_detach_the_job_goes_on_alone(start_with_web: StartDaemon, web: WebServer) -> None:
    url = web.offer("/disk", WebFile(DISK))
    daemon = start_with_web()
    job = await imported(daemon, url, "--name", "web", "--detach")
    assert job["kind"] == "create_image"
    await asyncio.to_thread(daemon.imsctl, "job", "watch", job["id"])
    assert [image["name"] for image in daemon.imsctl_json("image", "list")] == ["web"]


async def test_a_repeat_with_a_request_id_gets_the_image_of_the_first(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    url = web.offer("/disk", WebFile(DISK))
    daemon = start_with_web()
    arguments = (url, "--name", "web", "--request-id", "nightly")
    first = await imported(daemon, *arguments)
    assert (await imported(daemon, *arguments))["id"] == first["id"]
    assert len({seen.first for seen in web.seen}) == len(web.seen), "it was fetched twice"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["https://127.0.0.1/disk"], 1, "not one of the public web [URL_REFUSED]"),
        (["HTTP://example.org/disk"], 1, "the URL is not https [URL_REFUSED]"),
        (
            ["--on-server", "/etc/passwd"],
            1,
            "[FAILED_PRECONDITION]\n  an operator allows a directory with import_roots",
        ),
        (["--on-server", "disk.raw"], 2, "absolute path"),
        (["--on-server", "-"], 2, "absolute path"),
        (["--send-bytes", "https://example.org/disk"], 2, "no bytes are sent"),
        (["https://example.org/disk", "--sha256", "x"], 2, "64 hex digits"),
    ],
)
async def test_what_cannot_be_fetched_is_refused(
    daemon: DaemonProcess, arguments: list[str], code: int, said: str
) -> None:
    ended_with, output, errors = await imsctl(daemon, *arguments, "--name", "web")
    assert (ended_with, output) == (code, "")
    assert said in errors
    assert daemon.rows() == {}
