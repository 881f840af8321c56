"""Encrypted images as a user meets them: by imsctl, through crashes, with keys that are no good."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from imsd_kms_local.options import LocalKeysOptions
from imsd_kms_local.service import open_local_keys

from imsd.core.keys.data_keys import context_of
from imsd.v1 import image_pb2, job_pb2, key_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.constraints_world import Refusal, refusal
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import qemu_img
from tests.end_to_end.key_files import StartDaemon, keyring_of, with_keys

MIB = 1 << 20
KEY = "payroll"
DISK = random.Random(3).randbytes(6 * MIB) + bytes(4 * MIB) + random.Random(4).randbytes(2 * MIB)
MARKS = [DISK[start : start + 48] for start in (*range(100, 6 * MIB, 50_000), 11 * MIB)]


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    return with_keys(start_daemon, tmp_path, upload_part_bytes=MIB, key_cache_seconds=0)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


@pytest.fixture
def qcow2(tmp_path: Path, raw: Path) -> Path:
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, tmp_path / "disk.qcow2")
    return tmp_path / "disk.qcow2"


@pytest.fixture
def file(qcow2: Path) -> bytes:
    return qcow2.read_bytes()


def everything_kept(daemon: DaemonProcess) -> bytes:
    """The state directory with database and store, the log, and the folder of the keyring."""
    pieces = [daemon.log.read_bytes()]
    for folder in (daemon.state_dir, daemon.folder / "keys"):
        for path in folder.rglob("*"):
            if path.is_file():
                pieces.append(path.read_bytes())
    return b"\0".join(pieces)


async def data_key(daemon: DaemonProcess, image_id: str) -> bytes:
    """The data key of an image, as the key service unwraps it. The daemon must be stopped."""
    options = LocalKeysOptions(path=keyring_of(daemon.folder), passphrase_file=daemon.folder / "passphrase")
    wrapped = daemon.value(f"SELECT wrapped FROM data_key WHERE image_id = '{image_id}'")
    key_id = daemon.value(f"SELECT key_id FROM data_key WHERE image_id = '{image_id}'")
    async with open_local_keys(options) as service:
        return await service.unwrap(key_id, wrapped, context_of(image_id))


def imported(daemon: DaemonProcess, *arguments: str | Path, key: str = KEY) -> dict[str, Any]:
    named = [*map(str, arguments), "--name", "disk", "--encrypt-with", key]
    image: dict[str, Any] = daemon.imsctl_json("image", "import", *named)
    return image


@pytest.mark.parametrize("way", ["handed", "sent", "fetched"])
async def test_no_byte_of_an_image_and_no_data_key_is_on_the_disk(
    daemon: DaemonProcess, qcow2: Path, tmp_path: Path, way: str
) -> None:
    daemon.imsctl("key", "create", KEY)
    arguments: list[str | Path] = [qcow2, *(["--send-bytes"] if way == "sent" else [])]
    if way == "fetched":
        shutil.copy(qcow2, tmp_path / "bucket")
        arguments = ["main:disk.qcow2", "--from-bucket"]
    image = imported(daemon, *arguments)
    assert image["encrypted"]
    daemon.imsctl("image", "download", image["id"], "-o", str(tmp_path / "out.raw"))
    assert (tmp_path / "out.raw").read_bytes() == DISK
    daemon.imsctl("image", "verify", image["id"])
    daemon.stop()
    kept = everything_kept(daemon)
    assert [mark.hex() for mark in MARKS if mark in kept] == []
    secret = await data_key(daemon, image["id"])
    assert secret not in kept
    assert secret.hex().encode() not in kept


async def test_an_import_goes_on_after_a_crash(daemon: DaemonProcess, file: bytes) -> None:
    daemon.imsctl("key", "create", KEY)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs, size_bytes=len(file), key=KEY)
        await wire.write(stubs, [wire.header(upload), *wire.steps_of(file[: 5 * MIB + 777])])
    daemon.kill()
    kept = everything_kept(daemon)
    assert [mark.hex() for mark in MARKS if mark in kept] == []
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
        assert upload.is_encrypted
        assert upload.committed_offset > 0
        await wire.write(stubs, [wire.header(upload), *wire.steps_of(file, upload.committed_offset)])
        upload = await wire.commit(stubs, upload, len(file))
        job = await wire.start_image(stubs, upload)
        daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        job = await wire.ended(stubs, job)
        assert job.state == job_pb2.JOB_STATE_SUCCESS, job
        assert await wire.download(stubs, job.image_ids[0]) == DISK


async def test_a_key_that_is_disabled_is_its_own_error(
    daemon: DaemonProcess, stubs: Stubs, raw: Path, tmp_path: Path
) -> None:
    daemon.imsctl("key", "create", KEY)
    image = imported(daemon, raw)
    said = daemon.imsctl("key", "disable", KEY)
    assert "1 image cannot be read" in said.stderr
    read = image_pb2.ExportImageRequest(
        image_id=image["id"], target="main:disk", disk_format=image_pb2.DISK_FORMAT_QCOW2
    )
    assert await refusal(stubs.images.ExportImage(read)) == Refusal("KEY_DISABLED", "IMG.0102")
    opened = upload_pb2.CreateUploadRequest(key=KEY)
    assert await refusal(stubs.uploads.CreateUpload(opened)) == Refusal("KEY_DISABLED", "IMG.0097")
    unknown = upload_pb2.CreateUploadRequest(key="nobody")
    assert await refusal(stubs.uploads.CreateUpload(unknown)) == Refusal("KEY_NOT_FOUND", "IMG.0095")
    out = tmp_path / "out.raw"
    failed = daemon.imsctl("image", "download", image["id"], "-o", str(out), check=False)
    assert "KEY_DISABLED" in failed.stderr
    assert not out.exists()
    assert daemon.imsctl_json("image", "list")[0]["key_id"] == image["key_id"]
    daemon.imsctl("key", "enable", KEY)
    daemon.imsctl("image", "download", image["id"], "-o", str(out))
    assert out.read_bytes() == DISK


async def test_an_image_survives_the_rotation_of_its_key(
    daemon: DaemonProcess, raw: Path, tmp_path: Path
) -> None:
    daemon.imsctl("key", "create", KEY)
    image = imported(daemon, raw)
    before = daemon.blobs("packs/")
    key = daemon.imsctl_json("key", "rotate", KEY)
    assert (key["version"], key["images"]) == (2, 1)
    assert daemon.value("SELECT key_version FROM data_key") == 2
    daemon.imsctl("image", "download", image["id"], "-o", str(tmp_path / "out.raw"))
    assert (tmp_path / "out.raw").read_bytes() == DISK
    assert daemon.blobs("packs/") == before


async def test_deleting_an_image_drops_its_data_key(daemon: DaemonProcess, raw: Path) -> None:
    image = imported(daemon, raw, key="ims/default")
    daemon.imsctl("image", "delete", image["id"], "--now")
    assert daemon.value("SELECT count(*) FROM data_key") == 0
    assert daemon.imsctl_json("key", "show", "ims/default")["images"] == 0


async def test_a_key_under_which_images_are_says_how_many_are_lost(daemon: DaemonProcess, raw: Path) -> None:
    daemon.imsctl("key", "create", KEY)
    imported(daemon, raw)
    said = daemon.imsctl("key", "delete", KEY, "--days", "7")
    assert "1 image under the key cannot be read from now on, and will be LOST" in said.stderr
    assert "pending deletion" in said.stdout
    key = daemon.imsctl_json("key", "undelete", KEY)
    assert (key["state"], key["images"]) == ("disabled", 1)


async def test_who_may_not_use_keys_encrypts_nothing(daemon: DaemonProcess, stubs: Stubs) -> None:
    daemon.imsctl("project", "create", "lab")
    for action, roles in (("IMS FullAccess", "yes"), ("IMS ReadOnlyAccess", "no")):
        daemon.imsctl("user", "create", roles)
        daemon.imsctl("role", "grant", action, "--user", roles, "--in", "lab")
    for user, may in (("no", False), ("yes", True)):
        asked = ("policy", "check", user, "ims:keys:use", "--project", "lab")
        assert (daemon.imsctl(*asked, check=False).returncode == 0) is may
    found = await stubs.keys.ListKeys(key_pb2.ListKeysRequest(project_id="lab"))
    assert list(found.keys) == []
