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


PROGRAMS = {"imsd.service": "/opt/imsd/bin/imsd serve ", "imsd-nbd.service": "/opt/imsd/bin/imsd-nbd "}


@pytest.fixture(params=PROGRAMS)
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The unit with a program that exists here, because systemd looks for it; the other one beside it."""
    for name, program in PROGRAMS.items():
        text = (SYSTEMD / name).read_text()
        assert f"ExecStart={program}" in text
        (tmp_path / name).write_text(text.replace(program.split()[0], sys.executable))
    return tmp_path / str(request.param)


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
    # What the daemon starts belongs to its unit, and would end with it.
    assert not config.block_server.autostart
    assert str(config.block_server.run_dir) == "/run/imsd-nbd"
    assert "RuntimeDirectory=imsd-nbd\n" in (SYSTEMD / "imsd-nbd.service").read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_sandbox_lets_the_daemon_give_its_socket_to_the_group(name: str) -> None:
    """@privileged, which is forbidden, contains @chown: without the later line no daemon starts."""
    filters = [
        line.partition("=")[2]
        for line in (SYSTEMD / name).read_text().splitlines()
        if line.startswith("SystemCallFilter=")
    ]
    forbidden = next(number for number, line in enumerate(filters) if "@privileged" in line)
    assert "@chown" in filters[forbidden + 1 :]


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_unit_lets_a_data_key_get_into_a_file(name: str) -> None:
    lines = (SYSTEMD / name).read_text().splitlines()
    assert {"LimitCORE=0", "MemorySwapMax=0"} <= set(lines)
