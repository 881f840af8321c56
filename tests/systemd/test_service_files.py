"""The files of systemd/ are what systemd and the daemon take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imsd.config_loading import load_config

SYSTEMD = Path(__file__).parents[2] / "systemd"


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here, because systemd looks for it."""
    text = (SYSTEMD / "imsd.service").read_text()
    assert "ExecStart=/opt/imsd/bin/imsd serve " in text
    copy = tmp_path / "imsd.service"
    copy.write_text(text.replace("/opt/imsd/bin/imsd", sys.executable))
    return copy


def test_systemd_understands_every_line_of_the_unit(unit: Path) -> None:
    good = verify(unit)
    assert (good.returncode, good.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "NoNewPrivilege" in verify(unit).stderr


def test_the_sandbox_is_tight(unit: Path) -> None:
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert rated.returncode == 0, rated.stdout


def test_the_service_stops_later_than_the_daemon_drains() -> None:
    unit = (SYSTEMD / "imsd.service").read_text()
    stop_seconds = int(unit.partition("TimeoutStopSec=")[2].partition("s")[0])
    assert load_config(Path("/dev/null")).config.drain_seconds < stop_seconds


def test_the_example_configuration_is_accepted(tmp_path: Path) -> None:
    text = (SYSTEMD / "imsd.toml").read_text()
    # The group is made by sysusers, which did not run here.
    example = tmp_path / "imsd.toml"
    example.write_text(text.replace('socket_group = "ims"', 'socket_group = ""'))
    config = load_config(example).config
    assert config.listen == ("unix:/run/imsd/imsd.sock",)
    assert config.socket_mode == 0o660
    assert config.stores[config.default_store]["path"] == f"{config.state_dir}/store"


def test_the_sandbox_lets_the_daemon_give_its_socket_to_the_group() -> None:
    """@privileged, which is forbidden, contains @chown: without the later line no daemon starts."""
    filters = [
        line.partition("=")[2]
        for line in (SYSTEMD / "imsd.service").read_text().splitlines()
        if line.startswith("SystemCallFilter=")
    ]
    forbidden = next(number for number, line in enumerate(filters) if "@privileged" in line)
    assert "@chown" in filters[forbidden + 1 :]
