"""Encrypted images as disks: data keys are handed over, and again when the block server was restarted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.block_server_process import BlockServerProcess, answers, is_same
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, random_disk
from tests.transit import secret_file

WAIT_SECONDS = 90.0
DISK = random_disk(3 * MIB) + bytes(5 * MIB) + b"plain text of a disk" * 50_000 + bytes(480)


@pytest.fixture
def daemon(server: BlockServerProcess, tmp_path: Path) -> Iterator[DaemonProcess]:
    config = tmp_path / "imsd.toml"
    passphrase = secret_file(tmp_path / "passphrase", "correct horse battery staple")
    config.write_text(
        f'[key_services.ring]\ndriver = "local"\npath = "{tmp_path}/keyring"\n'
        f'passphrase_file = "{passphrase}"\n'
    )
    daemon = DaemonProcess(tmp_path, config=config, block_server__run_dir=server.run_dir)
    daemon.start()
    yield daemon
    assert daemon.stop() in (0, -9)
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(DISK)
    return file


def attached(daemon: DaemonProcess, file: Path) -> dict[str, Any]:
    daemon.imsctl("key", "create", "vault")
    daemon.imsctl("image", "import", str(file), "--name", "disk", "--encrypt-with", "vault")
    found: dict[str, Any] = daemon.imsctl_json("image", "attach", "disk")
    return found


def shown(daemon: DaemonProcess) -> dict[str, Any]:
    (found,) = daemon.imsctl_json("attachment", "list")
    assert isinstance(found, dict)
    return found


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_an_encrypted_disk_comes_back_after_either_restart(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path
) -> None:
    made = attached(daemon, file)
    assert is_same(file, made["uri"])
    daemon.kill()
    assert is_same(file, made["uri"])
    daemon.restart()
    server.signal(signal.SIGKILL)
    until(lambda: answers(made["uri"]), "the key is not handed over again")
    assert is_same(file, made["uri"])
    assert shown(daemon)["state"] == "ready"


def test_no_key_and_no_byte_of_the_disk_lies_on_the_disk(daemon: DaemonProcess, file: Path) -> None:
    made = attached(daemon, file)
    assert is_same(file, made["uri"])
    for path in daemon.state_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"plain text of a disk" not in content, path
            assert DISK[: 4 << 10] not in content, path
    (description,) = (daemon.state_dir / "nbd" / "attachments").glob("*.json")
    assert "key" not in description.read_text()


def test_a_disabled_key_attaches_nothing_and_ends_nothing(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path
) -> None:
    made = attached(daemon, file)
    daemon.imsctl("key", "disable", "vault")
    refused = daemon.imsctl("image", "attach", "disk", check=False)
    assert (refused.returncode, "KEY_DISABLED" in refused.stderr) == (1, True)
    assert len(daemon.imsctl_json("attachment", "list")) == 1
    assert is_same(file, made["uri"])
    server.signal(signal.SIGKILL)
    until(lambda: "vault" in shown(daemon)["detail"], "the state does not say why")
    assert shown(daemon)["state"] == "waiting_for_key"
    daemon.imsctl("key", "enable", "vault")
    until(lambda: answers(made["uri"]), "it is not served when the key is enabled again")
    assert is_same(file, made["uri"])


def test_a_deleted_image_that_is_attached_keeps_its_data_key(
    daemon: DaemonProcess, server: BlockServerProcess, file: Path
) -> None:
    made = attached(daemon, file)
    daemon.imsctl("image", "delete", "disk", "--now")
    server.signal(signal.SIGKILL)
    until(lambda: answers(made["uri"]), "its key is gone")
    assert is_same(file, made["uri"])
    daemon.imsctl("image", "detach", made["id"])
    assert daemon.value("select count(*) from data_key") == 0
