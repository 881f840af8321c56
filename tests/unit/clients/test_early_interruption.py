"""Ctrl-C while the commands are still being loaded: one line, exit 130, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Runs an entry point and presses Ctrl-C when the module of the first argument is about to be loaded.
INTERRUPTED_AT = """
import importlib, os, signal, sys

class PressCtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), int(number))
        return None

wanted, number, entry_point, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, PressCtrlC())
sys.exit(importlib.import_module(entry_point).main())
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("number", ["2", "15"], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", ["typer", "rich", "grpc", "imsctl.image_group", "imsctl.progress"])
def test_imsctl_ends_while_it_is_being_loaded(tmp_path: Path, module: str, number: str) -> None:
    ended = run(tmp_path, module, number, "imsctl.main", "image", "list", "--help")
    assert (ended.returncode, ended.stderr) == (130, "imsctl: interrupted [CANCELLED]\n")


def test_imsctl_ends_by_ctrl_c_before_it_has_a_handler(tmp_path: Path) -> None:
    ended = run(tmp_path, "imsctl.interruption", "2", "imsctl.main", "image", "list")
    assert (ended.returncode, ended.stderr) == (130, "imsctl: interrupted [CANCELLED]\n")


@pytest.mark.parametrize("module", ["imsd.allocator", "typer", "imsd.contract", "pydantic_settings"])
@pytest.mark.parametrize("command", [["config", "show"], ["serve"]], ids=" ".join)
def test_imsd_ends_while_it_is_being_loaded(tmp_path: Path, command: list[str], module: str) -> None:
    ended = run(tmp_path, module, "2", "imsd.__main__", *command)
    assert (ended.returncode, ended.stderr) == (130, "imsd: interrupted [CANCELLED]\n")


@pytest.mark.parametrize("module", ["sqlalchemy", "grpc"])
def test_a_daemon_ends_while_it_is_being_loaded(tmp_path: Path, module: str) -> None:
    ended = run(tmp_path, module, "2", "imsd.__main__", "serve", "--state-dir", str(tmp_path / "state"))
    assert (ended.returncode, ended.stderr) == (130, "imsd: interrupted [CANCELLED]\n")


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["nohup", sys.executable, "-c", INTERRUPTED_AT, "typer", "1", "imsctl.main", "--version"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith("imsctl ")
