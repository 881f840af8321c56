"""The command `imsd`, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def imsd(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": ":".join(sys.path)} | variables
    return subprocess.run(
        [sys.executable, "-m", "imsd", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_configuration_is_shown_with_its_sources(tmp_path: Path) -> None:
    shown = imsd("config", "show", "-o", "json", "--state-dir", "s", cwd=tmp_path, IMSD_DRAIN_SECONDS="5")
    assert shown.returncode == 0, shown.stderr
    rows = {row["key"]: (row["value"], row["source"]) for row in json.loads(shown.stdout)}
    assert rows["state_dir"] == (str(tmp_path / "s"), "flag")
    assert rows["drain_seconds"] == ("5.0", "environment")
    table = imsd("config", "show", cwd=tmp_path)
    assert table.stdout.split("\n")[0].split() == ["KEY", "VALUE", "SOURCE"]


def test_a_mistake_is_a_sentence_a_hint_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("regoin = 'x'\n")
    failed = imsd("serve", "--config", "c.toml", cwd=tmp_path)
    assert failed.returncode == 1
    assert (
        failed.stderr
        == "imsd: c.toml: unknown key 'regoin' [INVALID_CONFIGURATION]\nhint: did you mean region?\n"
    )


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    failed = imsd("serve", "--lisen", "x", cwd=tmp_path)
    assert failed.returncode == 2
    assert "--listen" in failed.stderr


def test_every_command_has_an_example(tmp_path: Path) -> None:
    for command in (["serve"], ["config", "show"], ["version"]):
        assert "Example: " in imsd(*command, "--help", cwd=tmp_path).stdout


def test_the_version_is_told(tmp_path: Path) -> None:
    assert imsd("version", cwd=tmp_path).stdout.startswith("imsd 0.")
