"""Imports of files that the daemon reads itself, because it runs on the client's machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from ims_client.hand_over import hand_over

from imsd.grpc_server.file_socket import SUFFIX
from imsd.v1 import upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk

PART = 16 * MIB
LARGE_BYTES = 240 * MIB


@pytest.fixture
def odd_disk(tmp_path: Path) -> Path:
    """Data, zeros and holes, and an end inside a sector."""
    path = tmp_path / "odd.raw"
    with path.open("wb") as file:
        file.write(patterned_disk(20 * MIB))
        file.seek(70 * MIB + 1234)
        file.write(random_disk(5 * MIB))
        file.truncate(100 * MIB + 77)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.raw"
    path.write_bytes(random_disk(LARGE_BYTES, seed=3))
    return path


def importing(daemon: DaemonProcess, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imsctl", "image", "import", *map(str, arguments), "-o", "json"]
    environment = os.environ | {"IMSD_ADDRESS": daemon.address}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    output, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    return json.loads(output), told


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_image_is_the_same_whether_its_file_is_handed_over_or_sent(
    daemon: DaemonProcess, odd_disk: Path, kind: str, tmp_path: Path
) -> None:
    file = odd_disk
    if kind == "qcow2":
        file = tmp_path / "odd.qcow2"
        file.write_bytes(as_qcow2(tmp_path, odd_disk.read_bytes(), "-c"))
    handed = daemon.imsctl_json("image", "import", str(file), "--name", "handed")
    sent = daemon.imsctl_json("image", "import", str(file), "--name", "sent", "--send-bytes")
    assert handed["digest"] == sent["digest"] == daemon.imsctl_json("image", "digest", str(file))["digest"]
    assert handed["findings"] == sent["findings"]
    assert sent["new_size"] == 0
    daemon.imsctl("image", "download", "handed", "-o", str(tmp_path / "out.raw"))
    content = (tmp_path / "out.raw").read_bytes()
    assert content[: odd_disk.stat().st_size] == odd_disk.read_bytes()
    assert daemon.imsctl_json("image", "verify", "handed")["verify_report"]["damage_count"] == 0
    assert daemon.imsctl_json("upload", "list") == []


def test_the_file_is_offered_unless_its_bytes_shall_be_sent(daemon: DaemonProcess, odd_disk: Path) -> None:
    """A socket that takes nothing in the place of the daemon's: it is asked, and the bytes are sent."""
    path = Path(f"{daemon.socket}{SUFFIX}")
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == daemon.socket.stat().st_mode & 0o777
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        sending = importing(daemon, odd_disk, "--name", "sent", "--send-bytes")
        finished(sending)
        offering = importing(daemon, odd_disk, "--name", "offered")
        connection, _ = listener.accept()  # of the second command: the first one never came
        _, fds, _, _ = socket.recv_fds(connection, 64, 1)
        os.close(fds[0])
        connection.send(b"no")
        connection.close()
        image, _ = finished(offering)
    assert image["new_size"] == 0


async def committed(stubs: Stubs) -> upload_pb2.Upload:
    """The one upload, as soon as something of it is durable."""
    async with asyncio.timeout(60):
        while True:
            for upload in await wire.uploads_of(stubs):
                if upload.committed_offset:
                    return upload
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_import_goes_on_when_it_is_repeated(
    start_daemon: Callable[..., DaemonProcess], large: Path, number: signal.Signals
) -> None:
    daemon = start_daemon(upload_part_bytes=PART)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        first = importing(daemon, large, "--name", "large")
        upload = await committed(stubs)
        first.send_signal(number)
        await asyncio.to_thread(first.communicate)
        (left,) = await wire.uploads_of(stubs)
    assert left.id == upload.id
    assert left.state == upload_pb2.UPLOAD_STATE_OPEN
    image, told = await asyncio.to_thread(finished, importing(daemon, large, "--name", "large"))
    assert f"resuming upload {upload.id}" in told
    assert image["digest"] == daemon.imsctl_json("image", "digest", str(large))["digest"]


async def test_an_import_outlives_a_kill_of_the_daemon(
    start_daemon: Callable[..., DaemonProcess], large: Path
) -> None:
    daemon = start_daemon(upload_part_bytes=PART)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        running = importing(daemon, large, "--name", "large")
        await committed(Stubs(channel))
        daemon.kill()
    daemon.restart()
    image, _ = await asyncio.to_thread(finished, running)
    assert image["digest"] == daemon.imsctl_json("image", "digest", str(large))["digest"]
    assert daemon.imsctl_json("image", "verify", "large")["verify_report"]["damage_count"] == 0


@pytest.mark.parametrize("is_same", [True, False])
async def test_the_rest_of_another_file_is_not_taken_for_the_rest_of_the_first(
    daemon: DaemonProcess, stubs: Stubs, tmp_path: Path, *, is_same: bool
) -> None:
    first, other = random_disk(8 * MIB, seed=1), random_disk(8 * MIB, seed=2)
    upload = await wire.open_upload(stubs, size_bytes=len(first))
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(first[: 4 * MIB])])
    path = tmp_path / "disk.raw"
    path.write_bytes(first if is_same else other)
    ended = await asyncio.to_thread(daemon.imsctl, "upload", "resume", upload.id, str(path), check=False)
    if is_same:
        assert ended.returncode == 0, ended.stderr
        (resumed,) = await wire.uploads_of(stubs)
        assert resumed.state == upload_pb2.UPLOAD_STATE_COMMITTED
    else:
        assert ended.returncode == 1
        assert "DIGEST_MISMATCH" in ended.stderr
        assert await wire.uploads_of(stubs) == []


async def test_a_token_of_nothing_is_not_found(daemon: DaemonProcess, stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=MIB)
    for token in (b"x", bytes(32), os.urandom(32)):
        header = upload_pb2.WriteUploadRequest.Header(upload_id=upload.id, offset=0, file_token=token)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await wire.write(stubs, [upload_pb2.WriteUploadRequest(header=header)])
        assert wire.reason_of(refused.value) == "FILE_TOKEN_UNKNOWN"
    assert (await wire.uploads_of(stubs))[0].committed_offset == 0


async def test_a_file_longer_than_its_upload_is_refused(
    daemon: DaemonProcess, stubs: Stubs, odd_disk: Path
) -> None:
    upload = await wire.open_upload(stubs, size_bytes=MIB)
    with odd_disk.open("rb") as file:
        token = await asyncio.to_thread(hand_over, daemon.address, file.fileno())
    header = upload_pb2.WriteUploadRequest.Header(upload_id=upload.id, offset=0, file_token=token or b"")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [upload_pb2.WriteUploadRequest(header=header)])
    assert wire.reason_of(refused.value) == "UPLOAD_TOO_LONG"


async def test_the_descriptors_of_handed_files_do_not_stay(daemon: DaemonProcess, odd_disk: Path) -> None:
    def opened() -> int:
        links = [f"/proc/{daemon.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{daemon.pid}/fd")]
        return sum(os.path.realpath(link) == str(odd_disk) for link in links if os.path.lexists(link))

    for number in range(3):
        await asyncio.to_thread(daemon.imsctl, "image", "import", str(odd_disk), "--name", f"n{number}")
    async with asyncio.timeout(10):
        while opened():
            await asyncio.sleep(0.05)
    assert opened() == 0
