"""Key services of a real daemon: a keyring beside a transit engine, and what they keep to themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon_process import DaemonProcess
from tests.openbao import OpenBao
from tests.transit import secret_file, write_policy

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def config(openbao: OpenBao, tmp_path: Path) -> Path:
    mount = openbao.mount_transit()
    token = secret_file(tmp_path / "token", openbao.make_token([write_policy(openbao, mount)]))
    passphrase = secret_file(tmp_path / "passphrase", PASSPHRASE)
    path = tmp_path / "imsd.toml"
    path.write_text(f"""
default_key_service = "ring"
import_roots = ["{tmp_path}"]

[key_services.ring]
driver = "local"
path = "{tmp_path / "keyring"}"
passphrase_file = "{passphrase}"

[key_services.bao]
driver = "transit"
url = "{openbao.url}"
mount = "{mount}"
token_file = "{token}"
retry_seconds = 1
""")
    return path


@pytest.fixture
def keyed(config: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path, ["--config", str(config)])
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert PASSPHRASE not in log
    assert (tmp_path / "token").read_text().strip() not in log


def drivers(daemon: DaemonProcess) -> dict[str, Any]:
    return {each["instance"]: each for each in daemon.imsctl_json("driver", "list") if each["instance"]}


def test_keys_of_both_live_through_their_states_and_a_restart(keyed: DaemonProcess, tmp_path: Path) -> None:
    assert drivers(keyed)["ring"]["plugin"].startswith("imsd_kms_local")
    assert {drivers(keyed)[name]["state"] for name in ("ring", "bao")} == {"ready"}
    for service in ("ring", "bao"):
        keyed.imsctl("key", "create", service, "--key-service", service)
        assert keyed.imsctl_json("key", "rotate", service)["version"] == 2
        keyed.imsctl("key", "disable", service)
    keyed.stop()
    keyed.start()
    for service in ("ring", "bao"):
        assert keyed.imsctl_json("key", "show", service)["state"] == "disabled"
        assert keyed.imsctl_json("key", "enable", service)["state"] == "enabled"
    assert PASSPHRASE.encode() not in (tmp_path / "keyring").read_bytes()


def test_files_of_keys_and_secrets_are_no_images(keyed: DaemonProcess, tmp_path: Path) -> None:
    for name in ("keyring", "keyring.lock", "passphrase", "token"):
        refused = keyed.imsctl(
            "image", "import", "--on-server", str(tmp_path / name), "--name", "secret", check=False
        )
        assert refused.returncode != 0
        assert "PERMISSION_DENIED" in refused.stderr, refused.stderr


@pytest.mark.parametrize("passphrase", ["another passphrase entirely", "short"])
def test_a_daemon_goes_on_without_a_keyring_that_does_not_open(
    keyed: DaemonProcess, tmp_path: Path, passphrase: str
) -> None:
    keyed.stop()
    before = (tmp_path / "keyring").read_bytes()
    secret_file(tmp_path / "passphrase", passphrase)
    keyed.start()
    ring = drivers(keyed)["ring"]
    assert ring["state"] == "failed"
    assert "passphrase" in ring["detail"]
    refused = keyed.imsctl("key", "create", "new", check=False)
    assert "DRIVER_NOT_READY" in refused.stderr
    keyed.imsctl("key", "create", "new", "--key-service", "bao")
    assert (tmp_path / "keyring").read_bytes() == before


def test_a_daemon_with_keys_leaves_no_core_dump(keyed: DaemonProcess) -> None:
    limits = Path(f"/proc/{keyed.pid}/limits").read_text().splitlines()
    (core,) = (line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    program = (
        "import ctypes; from imsd.core_dumps import leave_no_dumps; is_dumpable = ctypes.CDLL(None).prctl;"
        "print(is_dumpable(3, 0, 0, 0, 0)); leave_no_dumps(); print(is_dumpable(3, 0, 0, 0, 0))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "0"]
