"""Images as disks: a real daemon, the block server that it starts, and real clients of disks."""

from __future__ import annotations

import asyncio
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

from imsd.v1 import attachment_pb2 as pb
from imsd.v1 import identity_pb2, image_pb2, member_pb2
from tests.end_to_end import wire
from tests.end_to_end.block_server_process import BlockServerProcess, answers, is_same
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk
from tests.end_to_end.test_policies import make_user

StartDaemon = Callable[..., DaemonProcess]

DISK = random_disk(6 * MIB) + bytes(20 * MIB) + random_disk(3 * MIB + 512, seed=2)
WAIT_SECONDS = 60.0


@pytest.fixture
def start(
    server: BlockServerProcess, start_daemon: StartDaemon
) -> StartDaemon:  # the server is closed after the daemon, which would start it again
    def start(**settings: Any) -> DaemonProcess:
        return start_daemon(block_server__run_dir=server.run_dir, **settings)

    return start


@pytest.fixture
def daemon(start: StartDaemon) -> DaemonProcess:
    return start()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(DISK)
    return file


def attached(daemon: DaemonProcess, file: Path, name: str = "disk") -> dict[str, Any]:
    daemon.imsctl("image", "import", str(file), "--name", name)
    found: dict[str, Any] = daemon.imsctl_json("image", "attach", name)
    return found


def shown(daemon: DaemonProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.imsctl_json("attachment", "list")
    return found


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


async def reason(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return wire.reason_of(refused.value)


def test_a_newcomer_attaches_reads_and_detaches(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path, tmp_path: Path
) -> None:
    made = attached(daemon, file)
    assert (made["state"], made["size"], made["image_name"]) == ("ready", len(DISK), "disk")
    assert made["socket"] == str(server.sockets / f"{made['id']}.sock")
    uri = made["uri"]
    assert subprocess.run(["nbdinfo", "--is", "read-only", uri]).returncode == 0
    assert is_same(file, uri)
    copied = tmp_path / "copied"
    subprocess.run(["nbdcopy", uri, str(copied)], check=True)
    assert copied.read_bytes() == DISK
    overlay = tmp_path / "overlay.qcow2"
    told = daemon.imsctl("image", "attach", "disk").stdout
    command = next(line.split(maxsplit=1)[1] for line in told.splitlines() if line.startswith("overlay"))
    subprocess.run(command.replace("overlay.qcow2", str(overlay)), shell=True, check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 1M 64k", str(overlay)], check=True, capture_output=True)
    assert is_same(file, uri)
    assert "disk" in daemon.imsctl("attachment", "show", made["id"][:8]).stdout
    fitting = daemon.imsctl("image", "detach", "disk", check=False)
    assert (fitting.returncode, "AMBIGUOUS_NAME" in fitting.stderr) == (1, True)
    for each in shown(daemon):
        daemon.imsctl("image", "detach", each["id"])
    assert (shown(daemon), os.listdir(server.sockets)) == ([], [])
    daemon.imsctl("image", "delete", "disk", "--now")
    asyncio.run(wire.leaves_nothing(daemon))
    pid = server.pid()
    assert pid
    daemon.stop()
    until(lambda: not server.pid(), "an idle block server stays when the daemon ends")


def test_the_daemon_restarts_while_a_client_reads(daemon: DaemonProcess, file: Path) -> None:
    disk = random_disk(48 * MIB)
    file.write_bytes(disk)
    made = attached(daemon, file)
    reader = subprocess.Popen(["nbdcopy", made["uri"], "-"], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    begin = reader.stdout.read(MIB)  # more than a pipe holds is yet to come
    daemon.kill()
    daemon.restart()
    assert begin + reader.stdout.read() == disk
    assert reader.wait() == 0
    reader.stdout.close()
    assert [(each["id"], each["state"]) for each in shown(daemon)] == [(made["id"], "ready")]


def test_a_block_server_that_is_killed_comes_back_with_the_same_socket(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path
) -> None:
    made = attached(daemon, file)
    server.signal(signal.SIGKILL)
    until(lambda: answers(made["uri"]), "the disk is not there again")
    assert is_same(file, made["uri"])
    until(lambda: shown(daemon)[0]["state"] == "ready", "the daemon does not see it")
    # What the block server had written is lost, too: the daemon knows what is attached.
    daemon.kill()
    server.signal(signal.SIGKILL)
    for description in (daemon.state_dir / "nbd" / "attachments").iterdir():
        description.unlink()
    daemon.restart()
    until(lambda: answers(made["uri"]), "the disk is not there again")
    assert is_same(file, made["uri"])


async def test_the_bytes_stay_until_it_is_detached(daemon: DaemonProcess, file: Path) -> None:
    made = attached(daemon, file)
    daemon.imsctl("image", "delete", "disk", "--now")
    daemon.stop()
    daemon.start()  # with a sweep
    async with connected(daemon) as stubs:
        assert await wire.images_of(stubs) == []
        other = await wire.import_disk(stubs, random_disk(MIB))
        await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=other.id, is_final=True))
    until(lambda: daemon.value("select count(*) from manifest") == 1, "the other image is not swept away")
    assert is_same(file, made["uri"])
    assert daemon.value("select holder_kind from manifest_holder") == "attachment"
    daemon.imsctl("image", "detach", made["id"])
    await wire.leaves_nothing(daemon)


def test_what_is_in_use_is_detached_by_force_only(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path
) -> None:
    made = attached(daemon, file)
    reader = subprocess.Popen(["nbdcopy", made["uri"], "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.read(MIB)
    refused = daemon.imsctl("image", "detach", "disk", check=False)
    assert (refused.returncode, "FAILED_PRECONDITION" in refused.stderr) == (1, True)
    assert shown(daemon)[0]["clients"] >= 1
    daemon.imsctl("image", "detach", "disk", "--force")
    assert (shown(daemon), os.listdir(server.sockets)) == ([], [])
    reader.stdout.read()
    assert reader.wait(30) != 0
    reader.stdout.close()
    reader.stderr.close()


def test_sixteen_clients_fetch_each_chunk_once(daemon: DaemonProcess, file: Path) -> None:
    made = attached(daemon, file)
    readers = [subprocess.Popen(["nbdcopy", made["uri"], "null:"]) for _ in range(16)]
    assert [reader.wait(100) for reader in readers] == [0] * 16
    (now,) = shown(daemon)
    stored = daemon.imsctl_json("image", "show", "disk")["stored_size"]
    assert stored <= now["fetched_bytes"] <= stored + MIB  # beside the pages of the manifest
    assert now["read_bytes"] >= 16 * 9 * MIB  # they ask where zeros are, and do not read those


def test_disks_of_every_origin_are_the_disk(daemon: DaemonProcess, file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.raw"  # VHD knows whole cylinders, and the others whole sectors
    whole.write_bytes(random_disk(4 * MIB) + bytes(4 * MIB))
    formats = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "zvhd2": "zvhd2"}
    for name, suffix in formats.items():
        source = tmp_path / f"{name}.{suffix}"
        if name == "zvhd2":
            daemon.imsctl("image", "convert", str(whole), str(source))
        else:
            subprocess.run(["qemu-img", "convert", "-O", name, str(whole), str(source)], check=True)
        fast = ("--fast", "--os-version", "Debian GNU/Linux 12.0.0 64bit") if name == "zvhd2" else ()
        daemon.imsctl("image", "import", str(source), "--name", name, *fast)
        assert is_same(whole, daemon.imsctl_json("image", "attach", name)["uri"]), name


async def test_only_who_may_download_may_attach(daemon: DaemonProcess, server: BlockServerProcess) -> None:
    async with connected(daemon) as stubs:
        for project in ("blue", "green"):
            await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id=project))
        image = await wire.import_disk(stubs, random_disk(MIB), project_id="blue")
        owner = await make_user(stubs, "owner", {"blue": ("IMS FullAccess",)})
        viewer = await make_user(stubs, "viewer", {"blue": ("IMS ReadOnlyAccess",)})
        other = await make_user(stubs, "other", {"green": ("IMS FullAccess",)})

        def attach(project: str, who: Any) -> Any:
            request = pb.AttachImageRequest(project_id=project, image_id=image.id)
            return stubs.attachments.AttachImage(request, metadata=who)

        assert await reason(attach("blue", viewer)) == "PERMISSION_DENIED"
        assert await reason(attach("green", other)) == "NOT_FOUND"
        share = member_pb2.AddMembersRequest(
            project_id="blue", image_ids=[image.id], member_project_ids=["green"]
        )
        await wire.ended(stubs, await stubs.members.AddMembers(share))
        assert await reason(attach("green", other)) == "SHARE_NOT_ACCEPTED"
        made = await attach("blue", owner)
        listing = pb.ListAttachmentsRequest(project_id="blue")
        assert len((await stubs.attachments.ListAttachments(listing, metadata=viewer)).attachments) == 1
        for call in (
            stubs.attachments.GetAttachment(
                pb.GetAttachmentRequest(project_id="green", attachment_id=made.id), metadata=other
            ),
            stubs.attachments.DetachImage(
                pb.DetachImageRequest(project_id="green", attachment_id=made.id, force=True), metadata=other
            ),
        ):
            assert await reason(call) == "NOT_FOUND"
        listing.project_id = "green"
        assert not (await stubs.attachments.ListAttachments(listing, metadata=other)).attachments
    assert os.listdir(server.sockets) == [f"{made.id}.sock"]


async def test_an_image_that_is_not_there_yet_is_refused(daemon: DaemonProcess) -> None:
    async with connected(daemon) as stubs:
        request = image_pb2.CreateQueuedImageRequest(
            name="later",
            disk_format=image_pb2.DISK_FORMAT_RAW,
            os_version="Debian GNU/Linux 12.0.0 64bit",
            min_disk_gb=1,
        )
        queued = await stubs.images.CreateQueuedImage(request)
        attach = stubs.attachments.AttachImage
        assert await reason(attach(pb.AttachImageRequest(image_id=queued.id))) == "IMAGE_NOT_ACTIVE"
        assert await reason(attach(pb.AttachImageRequest(image_id="x"))) == "INVALID_REQUEST"
        get = pb.GetAttachmentRequest(attachment_id="../../etc")
        assert await reason(stubs.attachments.GetAttachment(get)) == "INVALID_REQUEST"
    assert daemon.value("select count(*) from attachment") == 0


async def test_a_request_that_is_repeated_attaches_once(daemon: DaemonProcess) -> None:
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, random_disk(MIB))
        request = pb.AttachImageRequest(image_id=image.id, request_id="again")
        first = await stubs.attachments.AttachImage(request)
        assert (await stubs.attachments.AttachImage(request)).id == first.id
        answer = await stubs.attachments.DetachImage(pb.DetachImageRequest(attachment_id=first.id))
        assert answer.is_detached
        assert await reason(stubs.attachments.AttachImage(request)) == "NOT_FOUND"


@pytest.mark.parametrize("setting", ["limits__max_attachments_per_project", "block_server__max_attachments"])
async def test_there_are_limits(start: StartDaemon, server: BlockServerProcess, setting: str) -> None:
    daemon = start(**{setting: 2})
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, random_disk(MIB))
        request = pb.AttachImageRequest(image_id=image.id)
        made = [await stubs.attachments.AttachImage(request) for _ in range(2)]
        assert await reason(stubs.attachments.AttachImage(request)) == "LIMIT_EXCEEDED"
        assert daemon.value("select count(*) from attachment") == 2
        await stubs.attachments.DetachImage(pb.DetachImageRequest(attachment_id=made[0].id))
        await stubs.attachments.AttachImage(request)
    assert len(os.listdir(server.sockets)) == 2


def test_without_a_block_server_the_daemon_works_and_says_how_to_start_one(
    start: StartDaemon, server: BlockServerProcess, file: Path
) -> None:
    daemon = start(block_server__autostart="false")
    daemon.imsctl("image", "import", str(file), "--name", "disk")
    refused = daemon.imsctl("image", "attach", "disk", check=False)
    assert (refused.returncode, "BLOCK_SERVER_UNAVAILABLE" in refused.stderr) == (1, True)
    assert "systemctl start imsd-nbd" in refused.stderr
    assert shown(daemon) == []
    command = [sys.executable, "-m", "imsd.nbd", "--state-dir", str(daemon.state_dir)]
    environment = os.environ | {"IMSD_BLOCK_SERVER__RUN_DIR": str(server.run_dir)}
    own = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: bool(server.pid()), "the block server does not start")
        made = daemon.imsctl_json("image", "attach", "disk")
        assert is_same(file, made["uri"])
        own.terminate()
        own.wait()
        (now,) = shown(daemon)
        assert (now["state"], bool(now["detail"])) == ("unreachable", True)
        # It ends when it is there again.
        gone = daemon.imsctl_json("image", "detach", "disk")
        assert gone[0]["detached"] is False
        assert shown(daemon)[0]["state"] == "detaching"
        own = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        until(lambda: shown(daemon) == [], "it is not detached")
        assert os.listdir(server.sockets) == []
    finally:
        own.terminate()
        own.wait()


def test_what_no_row_is_of_is_taken_from_the_block_server(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path
) -> None:
    made = attached(daemon, file)
    daemon.stop()
    known = server.call("status", attachment_id=made["id"])
    fields = ("export_name", "store", "manifest_id", "size_bytes", "digest")
    description = {name: known[name] for name in fields}
    assert server.call("attach", attachment_id="stray", **description)["ok"]
    daemon.start()
    until(lambda: os.listdir(server.sockets) == [f"{made['id']}.sock"], "the stray one stays")
    assert is_same(file, made["uri"])


def test_a_block_server_of_another_state_directory_is_none(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path, tmp_path: Path
) -> None:
    made = attached(daemon, file)
    (tmp_path / "other").mkdir()
    other = DaemonProcess(tmp_path / "other", block_server__run_dir=server.run_dir)
    other.start()
    try:
        other.imsctl("image", "import", str(file), "--name", "disk")
        refused = other.imsctl("image", "attach", "disk", check=False)
        assert (refused.returncode, "another state directory" in refused.stderr) == (1, True)
        assert "block_server.run_dir" in refused.stderr
    finally:
        assert other.stop() == 0
    assert is_same(file, made["uri"])


def test_what_a_block_server_says_that_cannot_start_is_told(
    start: StartDaemon, server: BlockServerProcess, file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "imsd.toml"
    config.write_text("")
    daemon = start(config=config)
    daemon.imsctl("image", "import", str(file), "--name", "disk")
    config.write_text("nonsense = 1")
    refused = daemon.imsctl("image", "attach", "disk", check=False)
    assert (refused.returncode, "BLOCK_SERVER_UNAVAILABLE" in refused.stderr) == (1, True)
    assert "it ended at its start" in refused.stderr
    assert server.pid() == 0


def test_each_attach_and_detach_leaves_a_trace(daemon: DaemonProcess, file: Path) -> None:
    made = attached(daemon, file)
    daemon.imsctl("image", "detach", made["id"])
    traces = json.loads(daemon.imsctl("trace", "list", "--output", "json").stdout)
    told = {each["name"]: each["resource_id"] for each in traces}
    assert told["attachImage"] == made["image_id"]
    assert told["detachImage"] == made["id"]


def test_a_disk_that_is_moved_is_read_from_its_new_place(
    start: StartDaemon, file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "imsd.toml"
    main, other = tmp_path / "main", tmp_path / "other"
    sections = (f'[stores.{path.name}]\ndriver = "localfs"\npath = "{path}"\n' for path in (main, other))
    config.write_text("\n".join(sections))
    daemon = start(config=config, sweep_interval_seconds=0.5)
    file.write_bytes(random_disk(40 * MIB))
    made = attached(daemon, file)
    reader = subprocess.Popen(["nbdcopy", made["uri"], "-"], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    begin = reader.stdout.read(MIB)
    daemon.imsctl("image", "move", "disk", "--to", "other")
    until(
        lambda: not [path for path in main.rglob("*") if path.is_file() and "packs" in path.parts],
        "the bytes stay where the disk was",
    )
    assert begin + reader.stdout.read() == file.read_bytes()
    assert reader.wait() == 0
    reader.stdout.close()
    assert is_same(file, made["uri"])
    assert daemon.value("select store from attachment") == "other"
    assert daemon.value("select count(*) from manifest_holder where holder_kind = 'attachment'") == 1
