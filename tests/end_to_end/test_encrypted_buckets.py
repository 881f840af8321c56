"""All real parts at once: an encrypted image in a bucket, its key in a transit engine, used as a disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from tests.end_to_end.block_server_process import BlockServerProcess, is_same
from tests.end_to_end.cut_connection import Cut
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, patterned_disk, random_disk
from tests.openbao import OpenBao, started_openbao
from tests.seaweedfs import ADMIN, REGION, SeaweedFS
from tests.transit import secret_file, write_policy

KEY = "payroll"
DISK = random_disk(20 * MIB) + bytes(4 * MIB) + patterned_disk(4 * MIB)
MARKS = [DISK[start : start + 64] for start in range(1000, 20 * MIB, 500_000)]


@pytest.fixture
def bao(tmp_path: Path) -> Iterator[OpenBao]:
    """One that the test may stop."""
    with started_openbao(tmp_path / "bao") as bao:
        yield bao


@pytest.fixture
def daemon(
    server: BlockServerProcess, bao: OpenBao, tmp_path: Path, seaweedfs: SeaweedFS, s3_bucket: str
) -> Iterator[DaemonProcess]:
    mount = bao.mount_transit()
    token = secret_file(tmp_path / "token", bao.make_token([write_policy(bao, mount)]))
    config = tmp_path / "imsd.toml"
    config.write_text(
        f'default_store = "cloud"\nkey_cache_seconds = 0\n'
        f'[stores.cloud]\ndriver = "s3"\nendpoint = "{seaweedfs.endpoint}"\nbucket = "{s3_bucket}"\n'
        f'keys_file = "{ADMIN.write(tmp_path / "keys")}"\n'
        f'[key_services.bao]\ndriver = "transit"\nurl = "{bao.url}"\nmount = "{mount}"\n'
        f'token_file = "{token}"\nretry_seconds = 1\n'
    )
    daemon = DaemonProcess(tmp_path, config=config, block_server__run_dir=server.run_dir)
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(DISK)
    return file


def imported(daemon: DaemonProcess, file: Path) -> dict[str, Any]:
    daemon.imsctl("key", "create", KEY)
    found: dict[str, Any] = daemon.imsctl_json(
        "image", "import", str(file), "--name", "disk", "--encrypt-with", KEY
    )
    return found


def downloaded(daemon: DaemonProcess, image: str, target: Path) -> bytes:
    daemon.imsctl("image", "download", image, "-o", str(target), "--format", "raw", "--force")
    return target.read_bytes()


def stored(seaweedfs: SeaweedFS, bucket: str) -> bytes:
    """All objects of the bucket."""
    keys = {"access_key_id": ADMIN.access_key, "secret_access_key": ADMIN.secret_key}
    place = {"endpoint": seaweedfs.endpoint, "region": REGION, "client_options": {"allow_http": True}}
    store = S3Store(bucket, **place, **keys)  # type: ignore[arg-type]
    objects = [each["path"] for page in obstore.list(store) for each in page]
    return b"".join(bytes(obstore.get(store, path).bytes()) for path in objects)


def test_an_encrypted_image_lives_in_a_bucket_under_a_key_of_a_transit_engine(
    daemon: DaemonProcess, seaweedfs: SeaweedFS, s3_bucket: str, file: Path, tmp_path: Path
) -> None:
    image = imported(daemon, file)
    assert (image["store"], image["encrypted"]) == ("cloud", True)
    content = stored(seaweedfs, s3_bucket)
    assert [mark.hex() for mark in MARKS if mark in content] == []
    uri = daemon.imsctl_json("image", "attach", "disk")["uri"]
    copied = tmp_path / "copied"
    subprocess.run(["nbdcopy", uri, str(copied)], check=True, timeout=100)
    assert copied.read_bytes() == DISK
    before = daemon.imsctl_json("store", "usage", "cloud")["pack_bytes"]
    assert daemon.imsctl_json("key", "rotate", KEY)["version"] == 2
    assert daemon.imsctl_json("store", "usage", "cloud")["pack_bytes"] == before
    assert downloaded(daemon, "disk", tmp_path / "out") == DISK
    assert is_same(file, uri)


def test_without_its_key_service_an_image_is_not_read_and_a_disk_in_use_is(
    daemon: DaemonProcess, bao: OpenBao, file: Path, tmp_path: Path
) -> None:
    imported(daemon, file)
    uri = daemon.imsctl_json("image", "attach", "disk")["uri"]
    bao.stop()
    for command in (("download", "disk", "-o", str(tmp_path / "out")), ("attach", "disk")):
        refused = daemon.imsctl("image", *command, check=False)
        assert (refused.returncode, "KEY_SERVICE_UNAVAILABLE" in refused.stderr) == (1, True), refused.stderr
    assert not (tmp_path / "out").exists()
    assert is_same(file, uri)
    bao.start()
    assert downloaded(daemon, "disk", tmp_path / "out") == DISK


def test_what_a_plain_image_holds_is_not_sent_again_for_an_encrypted_one(
    daemon: DaemonProcess, seaweedfs: SeaweedFS, s3_bucket: str, file: Path, tmp_path: Path
) -> None:
    daemon.imsctl("image", "import", str(file), "--name", "plain")
    content = stored(seaweedfs, s3_bucket)
    assert [mark.hex() for mark in MARKS if mark not in content] == [], "nothing would be seen here"
    daemon.imsctl("key", "create", KEY)
    second = bytearray(DISK)
    second[6 * MIB : 7 * MIB] = random_disk(MIB, seed=9)
    (tmp_path / "second.raw").write_bytes(second)
    cut = Cut(tmp_path, daemon)
    command = ("image", "import", str(tmp_path / "second.raw"), "--name", "secret", "--delta")
    daemon.imsctl("--address", cut.address, *command, "--encrypt-with", KEY)
    cut.close()
    assert cut.sent_bytes < 3 * MIB
    assert second[6 * MIB : 6 * MIB + 64] not in stored(seaweedfs, s3_bucket)
    assert downloaded(daemon, "secret", tmp_path / "out") == second
    key = daemon.imsctl_json("key", "show", KEY)
    assert key["images"] == 1
    daemon.imsctl("image", "delete", "plain", "--now")
    assert downloaded(daemon, "secret", tmp_path / "out") == second
