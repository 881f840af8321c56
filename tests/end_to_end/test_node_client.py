"""The example in Node: our .proto files and grpc-js do all that `imsctl` does, through crashes too."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imsd.v1 import image_pb2, trace_pb2
from tests.certificates import Authority
from tests.end_to_end import wire
from tests.end_to_end.cut_connection import CUT_AFTER, Cut
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, patterned_disk, random_disk
from tests.web_server import WebFile, WebServer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "clients" / "examples" / "node"
PART = 16 * MIB
SECONDS = 100

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="node or npm is not installed"
)

Node = Callable[..., Awaitable[Process]]


@pytest.fixture(scope="session")
def packages() -> Path:
    """What package-lock.json names, installed once for all workers, outside the example's folder."""
    lock = EXAMPLE / "package-lock.json"
    folder = ROOT / ".cache" / "node-client" / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(EXAMPLE / name, folder)
            command = ["npm", "ci", "--ignore-scripts", "--no-progress", "--no-update-notifier"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / "installed").touch()
    return folder / "node_modules"


@pytest.fixture(scope="session")
def main(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example beside the contract, as in the repository, and beside its packages."""
    root = tmp_path_factory.mktemp("node")
    example = root / "clients" / "examples" / "node"
    shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns("node_modules"))
    (example / "node_modules").symlink_to(packages)
    (root / "proto").symlink_to(ROOT / "proto")
    return example / "main.js"


@pytest.fixture
def start(main: Path) -> Node:
    async def start(address: str, *arguments: str | Path, **environment: str) -> Process:
        return await asyncio.create_subprocess_exec(
            "node", main, address, *arguments, stdout=PIPE, stderr=PIPE, env=os.environ | environment
        )

    return start


async def finished(process: Process, status: int = 0) -> tuple[str, str]:
    """What a program that ends with ``status`` wrote."""
    async with asyncio.timeout(SECONDS):
        output, complaints = (text.decode() for text in await process.communicate())
    assert process.returncode == status, complaints
    return output, complaints


async def image_of(process: Process) -> str:
    """The image that an import or a watch ended with."""
    output, _ = await finished(process)
    told = re.fullmatch(r"image ([0-9a-f-]{36})\n", output)
    assert told, output
    return told[1]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def files_like(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def test_a_disk_goes_in_and_comes_out_the_same(
    daemon: DaemonProcess, stubs: Stubs, start: Node, tmp_path: Path
) -> None:
    disk = patterned_disk(40 * MIB) + bytes(24 * MIB)  # zeros are sent and received as their length
    image = await image_of(
        await start(daemon.address, "import", written(tmp_path / "disk.raw", disk), "--name", "mine")
    )
    shown = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=image))
    assert (shown.name, shown.status) == ("mine", image_pb2.IMAGE_STATUS_ACTIVE)
    assert await wire.download(stubs, image) == disk
    for what, name in (("mine", "by-name.raw"), (image[:8], "by-id.raw")):
        await finished(await start(daemon.address, "download", what, tmp_path / name))
        assert (tmp_path / name).read_bytes() == disk
    assert (tmp_path / "by-id.raw").stat().st_blocks * 512 < len(disk), "zeros take room"
    await finished(
        await start(daemon.address, "download", "mine", tmp_path / "disk.qcow2", "--format", "qcow2")
    )
    again = await image_of(await start(daemon.address, "import", tmp_path / "disk.qcow2", "--name", "again"))
    assert await wire.download(stubs, again) == disk
    traces = (await stubs.traces.ListTraces(trace_pb2.ListTracesRequest())).traces
    assert {trace.outcome for trace in traces} == {trace_pb2.TRACE_OUTCOME_SUCCEEDED}


async def test_an_upload_goes_on_after_a_kill_of_the_daemon(
    start_daemon: Callable[..., DaemonProcess], start: Node, tmp_path: Path
) -> None:
    disk = random_disk(CUT_AFTER + 40 * MIB)
    daemon = start_daemon(upload_part_bytes=PART)
    cut = Cut(tmp_path, daemon)
    try:
        sending = await start(
            cut.address, "import", written(tmp_path / "disk.raw", disk), "--name", "through-a-crash"
        )
        assert await asyncio.to_thread(cut.reached.wait, SECONDS)
        daemon.kill()
        cut.go_on()
        daemon.restart()
        image = await image_of(sending)
    finally:
        cut.close()
    assert cut.sent_bytes < len(disk) + 3 * PART, "what was durable was sent again"
    await finished(await start(daemon.address, "download", image, tmp_path / "out.raw"))
    assert (tmp_path / "out.raw").read_bytes() == disk


async def test_a_watch_goes_on_after_a_kill_of_the_daemon(
    start_with_web: Callable[..., DaemonProcess], web: WebServer, start: Node
) -> None:
    web.faults.append(lambda reply: replace(reply, stall_after=MIB))
    url = web.offer("/disk.raw", WebFile(random_disk(4 * MIB), has_ranges=False))
    daemon = start_with_web()
    fetched = await asyncio.to_thread(
        daemon.imsctl_json, "image", "import", url, "--name", "fetched", "--detach"
    )
    watching = await start(daemon.address, "watch", fetched["id"])
    assert watching.stderr
    assert b"fetch" in await asyncio.wait_for(watching.stderr.readline(), SECONDS)
    daemon.kill()
    await asyncio.to_thread(daemon.restart)
    assert await image_of(watching) == fetched["image_ids"][0]
    assert daemon.value("SELECT attempt FROM job") == 2


async def test_a_refusal_is_told_with_its_reason_and_its_hint(
    daemon: DaemonProcess, start: Node, tmp_path: Path
) -> None:
    _, complaints = await finished(
        await start(daemon.address, "download", "nowhere", tmp_path / "out.raw", IMSD_PROJECT="lab"), 1
    )
    assert complaints == (
        "there is no image 'nowhere' in project lab [NOT_FOUND]\n  list the images of the project\n"
    )
    broken = written(tmp_path / "broken.qcow2", b"QFI\xfb\0\0\0\x03" + bytes(MIB))
    _, complaints = await finished(await start(daemon.address, "import", broken, "--name", "broken"), 1)
    assert re.search(r"\n[^\n]+ \[IMAGE_MALFORMED\]\n  [^\n]+\n\Z", complaints), complaints
    empty = written(tmp_path / "empty.raw", b"")
    _, complaints = await finished(await start(daemon.address, "import", empty, "--name", "empty"), 1)
    assert "[IMAGE_EMPTY]" in complaints
    _, complaints = await finished(await start(daemon.address, "import", empty), 2)
    assert complaints.startswith("usage: ")
    assert not files_like(tmp_path, "out*")


async def test_a_download_that_is_cut_off_leaves_no_file(
    daemon: DaemonProcess, stubs: Stubs, start: Node, tmp_path: Path
) -> None:
    image = await wire.import_disk(stubs, random_disk(192 * MIB))
    loading = await start(daemon.address, "download", image.id, tmp_path / "out.raw")
    assert loading.stderr
    await asyncio.wait_for(loading.stderr.readline(), SECONDS)  # it has begun
    loading.send_signal(signal.SIGSTOP)  # it takes no more while the daemon dies
    assert files_like(tmp_path, "out.raw.*.part")
    daemon.kill()
    loading.send_signal(signal.SIGCONT)
    _, complaints = await finished(loading, 1)
    assert re.search(r"\[(DAEMON_UNREACHABLE|UNAVAILABLE)\]\n", complaints), complaints
    assert not files_like(tmp_path, "out*")


async def test_a_token_is_sent_over_tls_and_a_wrong_one_refused(
    start_daemon: Callable[..., DaemonProcess], start: Node, tmp_path: Path
) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    place = f"127.0.0.1:{free_port()}"
    daemon = start_daemon(options=["--listen", place], tls__cert_file=certificate, tls__key_file=key)
    secret = await asyncio.to_thread(token_for, daemon, "ann", "lab")
    disk = written(tmp_path / "disk.raw", random_disk(MIB))
    said = {"IMSD_CA_FILE": str(authority.write(tmp_path)), "IMSD_TOKEN": secret}
    await image_of(await start(f"tls://{place}", "import", disk, "--name", "hers", **said))
    assert daemon.value("SELECT project_id FROM image") == "lab"
    await finished(await start(daemon.address, "download", "hers", tmp_path / "out.raw", IMSD_TOKEN=secret))
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    wrong = said | {"IMSD_TOKEN": secret[:-4] + "0000"}
    _, complaints = await finished(
        await start(f"tls://{place}", "download", "hers", tmp_path / "no", **wrong), 1
    )
    assert re.search(r" \[UNAUTHENTICATED\]\n  [^\n]+\n\Z", complaints), complaints
    _, complaints = await finished(await start("192.0.2.1:7443", "watch", "x", IMSD_TOKEN=secret), 2)
    assert "without TLS" in complaints


def token_for(daemon: DaemonProcess, user: str, project: str) -> str:
    """A token of a new user, who may do everything in a new project."""
    daemon.imsctl("project", "create", project)
    daemon.imsctl("user", "create", user)
    daemon.imsctl("role", "grant", "IMS FullAccess", "--user", user, "--in", project)
    return daemon.imsctl("token", "create", "--name", "node", "--user", user).stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_existing_file_is_kept(daemon: DaemonProcess, start: Node, tmp_path: Path) -> None:
    kept = written(tmp_path / "out.raw", b"mine")
    _, complaints = await finished(await start(daemon.address, "download", "any", kept), 1)
    assert "[LOCAL_FILE]" in complaints
    assert kept.read_bytes() == b"mine"


def test_the_lock_file_names_no_registry() -> None:
    text = (EXAMPLE / "package-lock.json").read_text()
    assert "://" not in text
    assert text.count('"integrity"') == text.count('"node_modules/')
