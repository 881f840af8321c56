"""The command `imsd`, as a process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest


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
    assert rows["drain_seconds"] == (5.0, "environment")
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


def test_every_option_of_a_store_is_shown_with_the_value_that_holds(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[stores.main]\ndriver = "localfs"\npath = "images"\n')
    shown = imsd(
        *("config", "show", "--config", "c.toml", "-o", "json"),
        cwd=tmp_path,
        IMSD_STORES__MAIN__THREADS="8",
        IMSD_DISABLED_PLUGINS="tapes",  # of which a warning tells, but not on standard output
    )
    assert shown.returncode == 0, shown.stderr
    rows = {row["key"]: (row["value"], row["source"]) for row in json.loads(shown.stdout)}
    assert {key: row for key, row in rows.items() if key.startswith("stores.")} == {
        "stores.main.driver": ("localfs", "c.toml"),
        "stores.main.required": (True, "default"),
        "stores.main.path": (str(tmp_path / "images"), "c.toml"),
        "stores.main.fsync": (True, "default"),
        "stores.main.threads": (8, "environment"),
        "stores.main.open_files": (64, "default"),
        "stores.main.file_mode": ("0600", "default"),
    }
    assert not (tmp_path / "images").exists()


def test_values_keep_their_types_in_json(tmp_path: Path) -> None:
    shown = imsd("config", "show", "-o", "json", "--state-dir", "s", "--listen", "unix:x", cwd=tmp_path)
    values = {row["key"]: row["value"] for row in json.loads(shown.stdout)}
    assert values["listen"] == [f"unix:{tmp_path}/x"]
    assert values["disabled_plugins"] == []
    assert values["buffer_bytes"] == 40 << 20
    assert values["decode_threads"] == 0
    assert values["drain_seconds"] == 30.0
    assert values["socket_mode"] == "0660"


@pytest.mark.parametrize(
    ("text", "variables", "said"),
    [
        ('[stores.main]\ndriver = "localfs"\npth = "x"\n', {}, "unknown key 'pth'"),
        ('[stores.main]\npath = "x"\n[stores.b]\ndriver = "localfs"\npath = "y"\n', {}, "driver is missing"),
        ('[stores.main]\ndriver = "localfs"\npath = "x"\nthreads = 65\n', {}, "threads is 65"),
        ("", {"IMSD_STORES__MAIN__DRIVR": "localfs"}, "unknown key 'drivr'"),
        ("", {"IMSD_STORES__MAIN__DRIVER": "tape"}, "there is no driver 'tape'"),
    ],
)
def test_what_serve_refuses_is_refused_by_show_in_the_same_words(
    tmp_path: Path, text: str, variables: dict[str, str], said: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    options = ("--config", "c.toml", "--state-dir", "s", "--listen", "unix:x")
    shown = imsd("config", "show", *options, cwd=tmp_path, **variables)
    assert shown.returncode == 1
    assert said in shown.stderr
    assert "[INVALID_CONFIGURATION]" in shown.stderr
    refused = imsd("serve", *options, cwd=tmp_path, **variables)
    assert refused.returncode == 1
    assert refused.stderr.endswith(shown.stderr)
    assert not (tmp_path / "s").exists()


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    failed = imsd("serve", "--lisen", "x", cwd=tmp_path)
    assert failed.returncode == 2
    assert "--listen" in failed.stderr


@pytest.mark.parametrize("address", ["foo", "unix:", "127.0.0.1:99999", "0.0.0.0:7070"])
def test_a_wrong_value_of_a_flag_is_wrong_usage_and_leaves_nothing_behind(
    tmp_path: Path, address: str
) -> None:
    failed = imsd("serve", "--state-dir", "s", "--listen", address, cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith("imsd: flag: listen: ")
    assert "[INVALID_CONFIGURATION]" in failed.stderr
    from_environment = imsd("serve", "--state-dir", "s", cwd=tmp_path, IMSD_LISTEN=address)
    assert from_environment.returncode == 1
    assert not (tmp_path / "s").exists()


def test_a_port_in_use_is_named_in_our_words_only(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        failed = imsd("serve", "--state-dir", "s", "--listen", address, cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        f"imsd: cannot listen on {address}: Address already in use [INVALID_CONFIGURATION]",
        "hint: stop what listens there, or choose another with --listen HOST:PORT",
    ]
    assert not (tmp_path / "s").exists()


def test_a_file_in_place_of_the_socket_is_found_before_anything_is_made(tmp_path: Path) -> None:
    failed = imsd("serve", "--state-dir", "s", "--listen", "unix:.", cwd=tmp_path)
    assert failed.returncode == 1
    assert "it exists and is no socket" in failed.stderr
    assert not (tmp_path / "s").exists()


def test_every_command_has_an_example(tmp_path: Path) -> None:
    for command in ([], ["serve"], ["config"], ["config", "show"], ["version"]):
        assert "Example: " in imsd(*command, "--help", cwd=tmp_path).stdout


def test_the_version_is_told(tmp_path: Path) -> None:
    assert imsd("version", cwd=tmp_path).stdout.startswith("imsd 0.")
    assert imsd("--version", cwd=tmp_path).stdout == imsd("version", cwd=tmp_path).stdout


def test_a_bucket_that_holds_the_state_directory_is_told_before_anything_is_made(tmp_path: Path) -> None:
    for command in (["config", "show"], ["serve"]):
        failed = imsd(
            *command,
            cwd=tmp_path,
            IMSD_BUCKETS__MAIN__PATH=str(tmp_path),
            IMSD_STATE_DIR="s",
            IMSD_LISTEN="unix:x",
        )
        assert failed.returncode == 1
        assert "the bucket 'main' holds the state directory" in failed.stderr
        assert "[INVALID_CONFIGURATION]" in failed.stderr
    assert not list(tmp_path.iterdir())


def test_policies_are_listed_and_a_wrong_one_is_told_before_the_daemon_starts(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    own = tmp_path / "p" / "own.cedar"
    own.write_text('@id("x")\nforbid (principal, action == Action::"ims:images:delete", resource);\n')
    listed = imsd("policy", "list", "-o", "json", cwd=tmp_path, IMSD_POLICY_DIR="p")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    assert [(row["id"], row["effect"], row["line"]) for row in rows][-1] == ("x", "forbid", 1)
    assert imsd("policy", "list", cwd=tmp_path).stdout.split("\n")[0].split() == [
        *("POLICY", "EFFECT", "FILE", "LINE")
    ]
    own.write_text('\n@id("x")\nforbid (principal, action == Action::"ims:images:erase", resource);\n')
    for command in (["policy", "list"], ["config", "show"], ["serve"]):
        failed = imsd(*command, cwd=tmp_path, IMSD_POLICY_DIR="p", IMSD_STATE_DIR="s")
        assert failed.returncode == 1
        assert f"{own}, line 2: policy 'x': unrecognized action" in failed.stderr
        assert "[INVALID_CONFIGURATION]" in failed.stderr
    assert not (tmp_path / "s").exists()
