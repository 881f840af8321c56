"""`imsctl trace` with a real daemon: what it prints, delivers and finds."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imsd.trace_chain import DOUBT, GENESIS
from tests.end_to_end.daemon_process import DaemonProcess
from tests.unit.traces.samples_of_traces import a_trace

StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def busy(daemon: DaemonProcess) -> DaemonProcess:
    """Two images were made, one of them deleted; and a user."""
    for number in (1, 2):
        make_image(daemon, f"disk-{number}")
    daemon.imsctl("image", "delete", "disk-1")
    daemon.imsctl("user", "create", "ann")
    return daemon


def make_image(daemon: DaemonProcess, name: str) -> None:
    path = daemon.folder / f"{name}.raw"
    path.write_bytes(bytes(1 << 20))
    daemon.imsctl("image", "import", str(path), "--name", name)


def traces(daemon: DaemonProcess, *options: str) -> Any:
    return daemon.imsctl_json("trace", "list", *options)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sequences(path: Path) -> list[int]:
    return [line["sequence"] for line in lines(path) if "mac" not in line]


def append(daemon: DaemonProcess, file: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return daemon.imsctl("trace", "export", "--append", str(file), "-o", "json", check=check)


def verify(daemon: DaemonProcess, *options: str) -> tuple[int, Any]:
    result = daemon.imsctl("trace", "verify", *options, "-o", "json", check=False)
    return result.returncode, json.loads(result.stdout)


def test_traces_are_listed_and_filtered(busy: DaemonProcess) -> None:
    everything = traces(busy)
    assert [trace["sequence"] for trace in everything] == list(range(len(everything), 0, -1))
    names = {trace["name"] for trace in everything}
    assert {"createUpload", "writeUpload", "commitUpload", "createImage", "deleteImage"} <= names
    created = traces(busy, "--name", "createUpload", "--since", "1h")
    assert [trace["resource_name"] for trace in created] == ["disk-2.raw", "disk-1.raw"]
    assert traces(busy, "--name", "createUpload", "--limit", "1") == created[:1]
    assert traces(busy, "--resource", created[0]["resource_id"], "--name", "createUpload") == created[:1]
    assert traces(busy, "--until", "1h") == []
    assert traces(busy, "--caller", "nobody") == traces(busy, "--outcome", "denied") == []
    table = busy.imsctl("trace", "list").stdout.splitlines()
    assert table[0].split() == ["TIME", "NAME", "RESOURCE", "OUTCOME", "WHO", "FROM", "ID"]
    assert any("createUpload" in line and "disk-2.raw" in line and "succeeded" in line for line in table)
    (user,) = traces(busy, "--project", "@service")
    assert (user["name"], user["resource_id"], user["caller_id"]) == ("createUser", "ann", "local")


@pytest.mark.parametrize("options", [[], ["--send-bytes"]])
def test_an_import_leaves_traces_of_success_only(daemon: DaemonProcess, options: list[str]) -> None:
    """What is asked of the daemon beforehand changes nothing, and the stream of bytes ends in peace."""
    path = daemon.folder / "disk.raw"
    path.write_bytes(bytes(range(256)) * (1 << 14))
    daemon.imsctl("image", "import", str(path), "--name", "disk", *options)
    daemon.imsctl("image", "import", "-", "--name", "piped", input="x" * (1 << 20))
    waits = ("--os-version", "Debian GNU/Linux 12.0.0 64bit", "--format", "raw", "--min-disk", "1")
    daemon.imsctl("image", "create-queued", "--name", "later", *waits)
    daemon.imsctl("image", "register", "later", str(path), *options)
    wrong = daemon.imsctl("image", "import", str(path), "--name", "a<b", *options, check=False)
    assert "IMAGE_NAME_INVALID" in wrong.stderr
    found = traces(daemon, "--limit", "0")
    assert [trace for trace in found if trace["outcome"] != "succeeded"] == []
    names = Counter(trace["name"] for trace in found)
    assert names == {
        "createUpload": 4,
        "writeUpload": 3,
        "commitUpload": 3,
        "createImage": 3,  # one of them waits for its bytes
        "updateImage": 1,
        "deleteUpload": 1,
    }


def test_a_trace_is_shown(busy: DaemonProcess) -> None:
    newest = traces(busy)[0]
    assert busy.imsctl_json("trace", "show", newest["id"]) == newest
    shown = busy.imsctl("trace", "show", newest["id"]).stdout
    assert newest["hash"] in shown
    missing = busy.imsctl("trace", "show", "00000000-0000-4000-8000-000000000000", check=False)
    assert missing.returncode == 1
    assert "NOT_FOUND" in missing.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--since", "yesterday"],
        ["list", "--outcome", "good"],
        ["export", "--append", "x", "--since", "1d"],
        ["verify", "--seal-key", "x"],
    ],
)
def test_wrong_usage_ends_with_2(daemon: DaemonProcess, arguments: list[str]) -> None:
    assert daemon.imsctl("trace", *arguments, check=False).returncode == 2


def test_an_export_is_checked_without_a_daemon(busy: DaemonProcess, tmp_path: Path) -> None:
    file, key = tmp_path / "traces.jsonl", busy.state_dir / "trace-key"
    file.write_text(busy.imsctl("trace", "export").stdout)
    count = len(traces(busy, "--limit", "0"))
    assert sequences(file) == list(range(1, count + 1))
    busy.stop()
    for proof in ([], ["--seal-key", str(key)]):
        code, found = verify(busy, "--file", str(file), *proof)
        assert (code, found["intact"], found["traces_checked"], found["problems"]) == (0, True, count, [])
        assert found["seals_checked"] > 0
    other = tmp_path / "key"
    other.write_bytes(b"x" * 32)
    code, found = verify(busy, "--file", str(file), "--seal-key", str(other))
    assert (code, found["intact"]) == (1, False)
    assert "made with another key" in found["problems"][0]


def test_what_a_hostile_file_says_does_not_reach_the_terminal(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    said = a_trace(name=DOUBT, message="\x1b[2Jall is well").chained(1, GENESIS)
    file.write_text(json.dumps(said.fields()) + "\n")
    told = daemon.imsctl("trace", "verify", "--file", str(file), check=False)
    assert told.returncode == 1
    assert "all is well" in told.stdout
    assert "\x1b" not in told.stdout


def test_an_export_can_be_checked_with_what_every_system_has(busy: DaemonProcess, tmp_path: Path) -> None:
    """The lines of proto/README.md."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    page = (Path(__file__).parents[2] / "proto" / "README.md").read_text()
    script = page.partition("```sh\njq -c")[2].partition("```")[0]
    file = tmp_path / "traces.jsonl"
    file.write_text(busy.imsctl("trace", "export").stdout)

    def wrong() -> str:
        command = ["bash", "-c", f"jq -c{script}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert wrong() == ""
    file.write_text(file.read_text().replace('"caller_id": "local"', '"caller_id": "eve"', 1))
    assert '"caller_id":"eve"' in wrong()


def test_an_export_that_was_tampered_with_is_found_out(busy: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(busy.imsctl("trace", "export").stdout)
    whole = file.read_text().splitlines(keepends=True)
    at = [number for number, line in enumerate(whole) if '"mac"' not in line]
    altered = [line.replace('"succeeded"', '"failed"') for line in whole]
    removed = whole[: at[2]] + whole[at[3] :]
    moved = whole[: at[1]] + whole[at[2] : at[3]] + whole[at[1] : at[2]] + whole[at[3] :]
    for forged in (altered, removed, moved):
        file.write_text("".join(forged))
        code, found = verify(busy, "--file", str(file))
        assert (code, found["intact"]) == (1, False)
        assert found["problems"]
    plain = busy.imsctl("trace", "verify", "--file", str(file), check=False)
    assert "problem: trace" in plain.stdout


def test_traces_are_delivered_bit_by_bit(busy: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "delivered.jsonl"
    first = json.loads(append(busy, file).stdout)
    assert first["traces"] == first["last_sequence"] == len(traces(busy, "--limit", "0"))
    assert json.loads(append(busy, file).stdout)["traces"] == 0
    for number in range(2):
        make_image(busy, f"more-{number}")
        with file.open("ab") as cut:  # the machine lost power in the middle of a line
            cut.write(b'{"id": "half a li')
        assert json.loads(append(busy, file).stdout)["traces"] > 0
    busy.stop()
    busy.restart()
    append(busy, file)
    assert sequences(file) == list(range(1, len(traces(busy, "--limit", "0")) + 1))
    code, found = verify(busy, "--file", str(file), "--seal-key", str(busy.state_dir / "trace-key"))
    assert (code, found["intact"]) == (0, True)
    assert found["sealed_sequence"] == found["last_sequence"]


def test_a_database_that_was_put_back_is_found_out_by_what_was_delivered(
    busy: DaemonProcess, tmp_path: Path
) -> None:
    file = tmp_path / "delivered.jsonl"
    busy.stop()
    for copied in busy.state_dir.glob("imsd.sqlite3*"):
        shutil.copy(copied, tmp_path / copied.name)
    busy.restart()
    make_image(busy, "hidden")
    append(busy, file)
    before = file.read_bytes()
    busy.stop()
    for changed in busy.state_dir.glob("imsd.sqlite3*"):
        changed.unlink()
    for copied in tmp_path.glob("imsd.sqlite3*"):
        shutil.copy(copied, busy.state_dir / copied.name)
    busy.restart()
    code, found = verify(busy)  # nothing in the database itself tells, but the daemon remembers
    assert code == 1
    assert "an older copy" in found["problems"][0]
    refused = append(busy, file, check=False)
    assert (refused.returncode, "DATA_LOSS" in refused.stderr) == (1, True)
    make_image(busy, "after")
    refused = append(busy, file, check=False)
    assert "is another one there" in refused.stderr
    assert file.read_bytes() == before


def test_two_exports_to_one_file_do_not_mix(busy: DaemonProcess, tmp_path: Path) -> None:
    from imsctl.trace_file import appending

    file = tmp_path / "delivered.jsonl"
    with appending(file):
        refused = append(busy, file, check=False)
    assert "another export writes" in refused.stderr
    append(busy, file)


def test_a_daemon_tells_what_was_done_to_its_traces(busy: DaemonProcess) -> None:
    import sqlite3
    from contextlib import closing

    code, found = verify(busy)
    assert (code, found["intact"]) == (0, True)
    busy.stop()
    with closing(sqlite3.connect(busy.state_dir / "imsd.sqlite3")) as database:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute("UPDATE trace SET caller_id = 'eve'")
        database.execute("DROP TRIGGER trace_update")
        database.execute("UPDATE trace SET caller_id = 'eve' WHERE sequence = 2")
        database.commit()
    busy.restart()
    code, found = verify(busy)
    assert (code, found["problems"]) == (1, ["trace 2 was altered: its hash is not that of its content"])


def test_old_traces_go_and_the_rest_is_proved(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(trace_retention_days=0.00001)
    make_image(daemon, "old")
    daemon.stop()
    # A trace of two days ago cannot be waited for; the daemon looks at this when it starts.
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(daemon.state_dir / "imsd.sqlite3")) as database:
        database.execute("UPDATE trace_chain SET oldest_at = '2020-01-01 00:00:00.000000'")
        database.commit()
    daemon.restart()
    make_image(daemon, "new")
    found = traces(daemon, "--limit", "0")
    assert found[-1]["name"] == "removeTraces"
    assert found[-1]["caller_id"] == "imsd"
    assert found[-1]["details"]["up_to"] == str(found[-1]["sequence"] - 1)
    code, check = verify(daemon)
    assert (code, check["problems"], check["first_sequence"]) == (0, [], found[-1]["sequence"])
