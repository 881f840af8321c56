"""A driver from outside the tree: the example of `plugins/README.md`, built, installed, tested and used.

Its package is made of the page's own text, and installed into a folder that only the programs of this test
look into.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from zipfile import ZipFile

import pytest

from imsd.promises.store_promises import STORE_PROMISES
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, random_disk

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "plugins" / "README.md"
FILES = ("pyproject.toml", "imsd_sqlite.py", "test_imsd_sqlite.py")


def run(command: list[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its author: the files that the page shows, and nothing else."""
    folder = tmp_path_factory.mktemp("imsd-sqlite")
    for name in FILES:
        pattern = rf"^`{re.escape(name)}`[^\n]*\n\n```\w+\n(.*?)^```$"
        shown = re.search(pattern, PAGE.read_text(), re.MULTILINE | re.DOTALL)
        assert shown is not None, name
        (folder / name).write_text(shown[1])
    return folder


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network: with what builds imsd."""
    out = tmp_path_factory.mktemp("wheel")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    run([*pip, "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", out, project], out)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the package and its entry point."""
    target = tmp_path_factory.mktemp("installed")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    run([*pip, "--no-index", "--no-deps", "--root-user-action=ignore", "--target", target, wheel], target)
    return target


@pytest.fixture
def environment(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """That of programs, this test's daemon among them, which see the package beside imsd."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return os.environ


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """With the section of the page for a store of the driver, beside the default one."""
    shown = re.search(r"^```toml\n(\[stores\.small\]\n.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert shown is not None
    path = tmp_path / "imsd.toml"
    path.write_text(
        f'[stores.main]\ndriver = "localfs"\npath = "{tmp_path / "main"}"\n\n'
        + shown[1].replace("/srv/images", str(tmp_path))
    )
    return path


def test_the_package_has_the_module_and_its_entry_point(wheel: Path) -> None:
    with ZipFile(wheel) as package:
        names = package.namelist()
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert package.read(points).decode().split() == ["[imsd]", "sqlite", "=", "imsd_sqlite"]
    assert [name for name in names if name.endswith(".py")] == ["imsd_sqlite.py"]


def test_the_installed_package_conforms(
    project: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """The author's test, in the author's folder but without the module there: that is the installed one."""
    for name in ("pyproject.toml", "test_imsd_sqlite.py"):
        (tmp_path / name).write_text((project / name).read_text())
    pytest_command: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    told = run(
        [*pytest_command, "-p", "no:randomly", f"--basetemp={tmp_path / 'tests'}"], tmp_path, environment
    )
    passed = re.search(r"^(\d+) passed", told, re.MULTILINE)
    assert passed, told
    assert int(passed[1]) == len(STORE_PROMISES) - told.count("SKIPPED")


def test_a_daemon_without_the_package_does_not_know_its_driver(tmp_path: Path, config: Path) -> None:
    daemon = DaemonProcess(tmp_path, ["--config", str(config)])
    with pytest.raises(AssertionError, match="ended at its start") as caught:
        daemon.start()
    assert "sqlite" in str(caught.value)
    assert daemon.stop() != 0


def test_a_daemon_serves_images_from_its_store(
    tmp_path: Path, config: Path, environment: Mapping[str, str], opened: Callable[[Path], DaemonProcess]
) -> None:
    daemon = opened(config)
    drivers = {driver["instance"]: driver for driver in daemon.imsctl_json("driver", "list")}
    small = drivers["small"]
    assert (small["name"], small["state"]) == ("sqlite", "ready")
    assert small["plugin"] == "imsd_sqlite 1.0"
    assert "put_if_absent" in small["capabilities"]

    disk = random_disk(3 * MIB, seed=77)
    (tmp_path / "disk.raw").write_bytes(disk)
    daemon.imsctl("image", "import", str(tmp_path / "disk.raw"), "--name", "small", "--store", "small")
    assert daemon.imsctl_json("image", "show", "small")["store"] == "small"
    database = tmp_path / "blobs.sqlite3"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        ((stored_bytes,),) = connection.execute("SELECT sum(size) FROM blob WHERE id LIKE 'packs/%'")
    assert stored_bytes >= len(disk)
    daemon.imsctl("image", "verify", "small")

    daemon.stop()
    daemon.start()
    daemon.imsctl("image", "download", "small", "-o", str(tmp_path / "back.raw"), "--format", "raw")
    assert (tmp_path / "back.raw").read_bytes() == disk


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path], DaemonProcess]]:
    daemons: list[DaemonProcess] = []

    def open_daemon(config: Path) -> DaemonProcess:
        daemon = DaemonProcess(tmp_path, ["--config", str(config)])
        daemons.append(daemon)
        daemon.start()
        return daemon

    yield open_daemon
    for daemon in daemons:
        assert daemon.stop() == 0, daemon.log.read_text()[-4000:]
        assert "Traceback" not in daemon.log.read_text()
