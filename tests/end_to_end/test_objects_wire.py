"""Files to and from buckets, with a real daemon: over the wire and by `imsctl object`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from ims_client import CallFailed, ObjectDownload, connect, open_source, put_object

from imsd.v1 import bucket_pb2 as pb
from imsd.v1 import identity_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk
from tests.end_to_end.test_policies import make_user

StartDaemon = Callable[..., DaemonProcess]


def bucket_of(daemon: DaemonProcess) -> Path:
    return daemon.state_dir / "bucket"


def files_in(folder: Path) -> dict[str, int]:
    """Of all files, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }


def header(place: str, **fields: Any) -> pb.PutObjectRequest:
    return pb.PutObjectRequest(header=pb.PutObjectRequest.Header(object=place, **fields))


def commit(size_bytes: int = 0) -> pb.PutObjectRequest:
    return pb.PutObjectRequest(commit=pb.PutObjectRequest.Commit(size_bytes=size_bytes))


async def put(stubs: Stubs, messages: list[pb.PutObjectRequest], **options: Any) -> pb.PutObjectResponse:
    async def requests() -> AsyncIterator[pb.PutObjectRequest]:
        for message in messages:
            yield message

    response: pb.PutObjectResponse = await stubs.buckets.PutObject(requests(), **options)
    return response


def test_a_newcomer_puts_lists_gets_and_deletes(daemon: DaemonProcess, tmp_path: Path) -> None:
    disk = random_disk(5 * MIB) + bytes(3 * MIB) + b"end"
    file, back = tmp_path / "disk.raw", tmp_path / "back"
    file.write_bytes(disk)
    done = daemon.imsctl_json("object", "put", str(file), "main:images/")
    sha256 = hashlib.sha256(disk).hexdigest()
    assert (done["name"], done["size"], done["sha256"]) == ("images/disk.raw", len(disk), sha256)
    assert (bucket_of(daemon) / "images" / "disk.raw").read_bytes() == disk
    shown = daemon.imsctl_json("object", "show", "main:images/disk.raw")
    assert daemon.imsctl_json("object", "list", "main", "images/") == [shown]
    assert "images/disk.raw" in daemon.imsctl("object", "list", "main").stdout
    got = daemon.imsctl("object", "get", "main:images/disk.raw", "-o", str(back)).stdout
    assert back.read_bytes() == disk
    assert str(back) in got
    refused = daemon.imsctl("object", "get", "main:images/disk.raw", "-o", str(back), check=False)
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    image = daemon.imsctl_json("image", "import", "--from-bucket", "main:images/disk.raw", "--name", "d")
    assert image["status"] == "active"
    assert "deleted main:images/disk.raw" in daemon.imsctl("object", "delete", "main:images/disk.raw").stdout
    assert daemon.imsctl_json("object", "list", "main") == []
    gone = daemon.imsctl("object", "delete", "main:images/disk.raw", check=False)
    assert (gone.returncode, "OBJECT_NOT_FOUND" in gone.stderr) == (1, True)


def test_pipes_go_in_and_out(daemon: DaemonProcess, tmp_path: Path) -> None:
    content = random_disk(3 * MIB + 77)
    imsctl = [sys.executable, "-m", "imsctl", "--address", daemon.address, "object"]
    sent = subprocess.run([*imsctl, "put", "-", "main:piped"], input=content, capture_output=True, check=True)
    assert hashlib.sha256(content).hexdigest() in sent.stdout.decode()
    got = subprocess.run([*imsctl, "get", "main:piped", "-o", "-"], capture_output=True, check=True)
    assert got.stdout == content
    (tmp_path / "empty").touch()
    assert daemon.imsctl_json("object", "put", str(tmp_path / "empty"), "main:empty")["size"] == 0
    assert daemon.imsctl("object", "get", "main:empty", "-o", "-").stdout == ""


def test_what_is_to_be_of_another_sha256_is_not_put(daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    wrong = ("object", "put", str(tmp_path / "file"), "main:", "--sha256", "0" * 64)
    refused = daemon.imsctl(*wrong, check=False)
    assert (refused.returncode, "(--sha256) [DIGEST_MISMATCH]" in refused.stderr) == (1, True)
    assert files_in(bucket_of(daemon)) == {}


HOSTILE = [
    ("file", "INVALID_REQUEST"),
    (":file", "BUCKET_NAME_EMPTY"),
    ("Main:file", "BUCKET_NAME_INVALID"),
    ("other:file", "BUCKET_NOT_FOUND"),
    ("main:", "OBJECT_NAME_EMPTY"),
    ("main:/etc/passwd", "OBJECT_NAME_INVALID"),
    ("main:../imsd.sqlite3", "OBJECT_NAME_INVALID"),
    ("main:a/../../imsd.sqlite3", "OBJECT_NAME_INVALID"),
    ("main:a//b", "OBJECT_NAME_INVALID"),
    ("main:a/", "OBJECT_NAME_INVALID"),
    ("main:.hidden", "OBJECT_NAME_INVALID"),
    ("main:a\0b", "OBJECT_NAME_INVALID"),
    ("main:a\nb", "OBJECT_NAME_INVALID"),
    ("main:a b", "OBJECT_NAME_HAS_SPACE"),
    ("main:" + "a" * 256, "OBJECT_NAME_TOO_LONG"),
    ("main:\u202egnp.exe", "OBJECT_NAME_INVALID"),
]


async def get(stubs: Stubs, place: str) -> None:
    async for _ in stubs.buckets.GetObject(pb.GetObjectRequest(object=place)):
        pass


async def test_names_that_cannot_be_are_refused_by_every_call(daemon: DaemonProcess, stubs: Stubs) -> None:
    for place, reason in HOSTILE:
        for attempt in (
            put(stubs, [header(place), commit()]),
            get(stubs, place),
            stubs.buckets.StatObject(pb.StatObjectRequest(object=place)),
            stubs.buckets.DeleteObject(pb.DeleteObjectRequest(object=place)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await attempt
            assert (place, wire.reason_of(refused.value)) == (place, reason)
    assert files_in(bucket_of(daemon)) == {}


async def test_links_are_no_objects_and_lead_nowhere(daemon: DaemonProcess, stubs: Stubs) -> None:
    bucket = bucket_of(daemon)
    (bucket / "link").symlink_to("/etc/hostname")
    (bucket / "outside").symlink_to(daemon.state_dir)
    for place in ("main:link", "main:outside/imsd.sqlite3"):
        for call in (
            stubs.buckets.StatObject(pb.StatObjectRequest(object=place)),
            stubs.buckets.DeleteObject(pb.DeleteObjectRequest(object=place)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert wire.reason_of(refused.value) == "OBJECT_NOT_FOUND"
    for place in ("main:link", "main:outside/new"):
        with pytest.raises(grpc.aio.AioRpcError):
            await put(stubs, [header(place), commit()])
    assert not (daemon.state_dir / "new").exists()
    assert (bucket / "link").is_symlink()


NO_OBJECTS: list[tuple[list[pb.PutObjectRequest], str]] = [
    ([], "INVALID_REQUEST"),
    ([pb.PutObjectRequest(data=b"x")], "INVALID_REQUEST"),
    ([header("main:f"), pb.PutObjectRequest(data=b"x")], "CANCELLED"),
    ([header("main:f"), header("main:f")], "INVALID_REQUEST"),
    ([header("main:f"), pb.PutObjectRequest(zero_length=-1)], "INVALID_REQUEST"),
    ([header("main:f"), pb.PutObjectRequest()], "INVALID_REQUEST"),
    ([header("main:f", size_bytes=-1)], "INVALID_REQUEST"),
    ([header("main:f", size_bytes=1 << 62)], "LIMIT_EXCEEDED"),
    ([header("main:f"), commit(size_bytes=1)], "UPLOAD_INCOMPLETE"),
]


async def test_a_stream_that_is_none_leaves_nothing(daemon: DaemonProcess, stubs: Stubs) -> None:
    for messages, reason in NO_OBJECTS:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await put(stubs, messages)
        assert (messages, wire.reason_of(refused.value)) == (messages, reason)
    assert files_in(bucket_of(daemon)) == {}


def test_a_put_that_is_broken_off_leaves_nothing(daemon: DaemonProcess) -> None:
    command = [sys.executable, "-m", "imsctl", "--address", daemon.address, "object", "put", "-", "main:f"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert client.stdin is not None
        assert client.stderr is not None
        client.stdin.write(random_disk(8 * MIB))  # more than fits the pipe: the client reads and sends
        client.send_signal(number)
        assert client.wait(30) == code
        client.stdin.close()
        assert code < 0 or "CANCELLED" in client.stderr.read().decode()
        client.stderr.close()
    assert daemon.stop() == 0
    assert files_in(bucket_of(daemon)) == {}


async def test_a_get_goes_on_after_a_kill_and_never_with_another_file(daemon: DaemonProcess) -> None:
    content = random_disk(60 * MIB)
    file = bucket_of(daemon) / "large"
    for is_replaced in (False, True):
        file.write_bytes(content)
        async with connect(daemon.address) as client:
            download = ObjectDownload(client.buckets, "main:large")
            received = bytearray()

            async def receive(download: ObjectDownload, received: bytearray, is_replaced: bool) -> None:
                async for piece in download.pieces():
                    if not received:
                        await asyncio.to_thread(daemon.kill)
                        if is_replaced:
                            file.write_bytes(content[::-1])
                        await asyncio.to_thread(daemon.restart)
                    received += piece.content or bytes(piece.length)

            if is_replaced:
                with pytest.raises(CallFailed) as failed:
                    await receive(download, received, is_replaced)
                assert failed.value.reason == "CONFLICT"
            else:
                await receive(download, received, is_replaced)
                assert received == content


async def test_a_refusal_is_told_while_the_file_is_sent(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(random_disk(20 * MIB))
    (bucket_of(daemon) / "taken").touch()
    async with connect(daemon.address) as client:
        for _ in range(10):
            with open_source(str(file)) as source, pytest.raises(CallFailed) as failed:
                await put_object(client.buckets, "main:taken", source)
            assert failed.value.reason == "OBJECT_EXISTS"


async def test_only_projects_of_the_bucket_and_roles_of_projects_may(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "imsd.toml"
    (tmp_path / "b").mkdir()
    config.write_text(f'[buckets.main]\ndriver = "localfs"\npath = "{tmp_path}/b"\nprojects = ["blue"]\n')
    daemon = start_daemon(config=config)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        for project in ("blue", "green"):
            await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id=project))
        owner = await make_user(stubs, "owner", {"blue": ("IMS FullAccess",), "green": ("IMS FullAccess",)})
        viewer = await make_user(stubs, "viewer", {"blue": ("IMS ReadOnlyAccess",)})
        whole = [header("main:f", project_id="blue"), commit()]
        for project, who, reason in (
            ("green", owner, "BUCKET_NOT_FOUND"),
            ("blue", viewer, "PERMISSION_DENIED"),
        ):
            whole[0].header.project_id = project
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await put(stubs, whole, metadata=who)
            assert wire.reason_of(refused.value) == reason
            get = pb.GetObjectRequest(object="main:f", project_id=project)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stubs.buckets.GetObject(get, metadata=who).read()
            assert wire.reason_of(refused.value) == reason
        whole[0].header.project_id = "blue"
        assert (await put(stubs, whole, metadata=owner)).object.name == "f"
    assert files_in(tmp_path / "b") == {"f": 0}


def test_a_bucket_that_is_read_only_is_not_changed(start_daemon: StartDaemon, tmp_path: Path) -> None:
    config = tmp_path / "imsd.toml"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_bytes(b"abc")
    section = (
        f'[buckets.main]\ndriver = "localfs"\npath = "{tmp_path}/b"\nprojects = ["*"]\nread_only = true\n'
    )
    config.write_text(section)
    daemon = start_daemon(config=config)
    for arguments in (("put", str(config), "main:new"), ("delete", "main:file")):
        refused = daemon.imsctl("object", *arguments, check=False)
        assert (refused.returncode, "STORE_READ_ONLY" in refused.stderr) == (1, True)
    assert daemon.imsctl("object", "get", "main:file", "-o", "-").stdout == "abc"
    assert os.listdir(tmp_path / "b") == ["file"]
