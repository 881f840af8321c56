"""imsctl as its users run it: processes of its own, against a real daemon."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from imsctl.command_line import GROUPS, app

from imsd.formats.registry import FORMATS
from tests.end_to_end.cut_connection import CUT_AFTER, Cut
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, qemu_img, random_disk

PART = 16 * MIB
# Random bytes, then a hole: its zeros travel as lengths.
RANDOM_BYTES, SPARSE_BYTES = 192 * MIB, 512 * MIB
# What may be on its way in sockets and flow-control windows when a stream breaks.
IN_FLIGHT = 12 * MIB
NIL = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One daemon for the tests that leave it as they found it."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("imsd"))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(patterned_disk(3 * MIB + 512))
    return path


@pytest.fixture(scope="module")
def qcow2(disk: Path) -> Path:
    path = disk.with_suffix(".qcow2")
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", disk, path)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.raw"
    path.write_bytes(random_disk(RANDOM_BYTES, seed=7))
    os.truncate(path, SPARSE_BYTES)
    return path


@pytest.fixture
def name() -> str:
    return f"image-{uuid.uuid4()}"


@pytest.fixture
def cut_daemon(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> Iterator[tuple[DaemonProcess, Cut]]:
    daemon = start_daemon(upload_part_bytes=PART)
    cut = Cut(tmp_path, daemon)
    yield daemon, cut
    cut.close()


def start_import(address: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imsctl", "image", "import", *map(str, arguments), "-o", "json"]
    environment = os.environ | {"IMSD_ADDRESS": address}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[Any, str]:
    output, complaints = process.communicate(timeout=100)
    assert process.returncode == 0, complaints
    return json.loads(output), complaints


def digest(daemon: DaemonProcess, what: str | Path) -> str:
    return str(daemon.imsctl_json("image", "digest", str(what))["digest"])


def refusal(daemon: DaemonProcess, *arguments: str) -> str:
    """The reason of a failure that is told as every failure is: a sentence, its reason, a hint."""
    result = daemon.imsctl(*arguments, check=False)
    assert result.returncode == 1, result
    assert result.stdout == ""
    told = re.fullmatch(r"imsctl: [^\n]+ \[([A-Z_]+)\]\n  [^\n]+\n", result.stderr)
    assert told, result.stderr
    return told[1]


def test_an_image_comes_in_is_changed_goes_out_and_is_deleted(
    shared: DaemonProcess, disk: Path, name: str, tmp_path: Path
) -> None:
    options = (
        "--os-version",
        "Debian 12",
        "--tag",
        f"of={name[:20]}",
        "--property",
        "a=1",
        "--min-ram",
        "64",
    )
    image = shared.imsctl_json("image", "import", str(disk), "--name", name, *options)
    assert image["status"] == "active"
    assert (image["name"], image["disk_format"], image["os_version"]) == (name, "raw", "Debian 12")
    assert (image["virtual_size"], image["min_ram"], image["min_disk"]) == (disk.stat().st_size, 64, 1)
    assert image["properties"] == {"a": "1"}
    assert 0 < image["stored_size"] <= image["data_size"] < image["virtual_size"]
    assert image["digest"] == digest(shared, disk) == digest(shared, name)

    assert shared.imsctl_json("image", "show", image["id"][:8]) == image
    changes = (
        "--name",
        f"{name}-b",
        "--max-ram",
        "128",
        "--property",
        "a=",
        "--property",
        "b=2",
        "--protect",
    )
    changed = shared.imsctl_json("image", "set", name, *changes)
    assert (changed["name"], changed["max_ram"], changed["protected"]) == (f"{name}-b", 128, True)
    assert changed["properties"].get("b") == "2"
    assert not changed["properties"].get("a")
    assert changed["etag"] != image["etag"]
    assert refusal(shared, "image", "delete", f"{name}-b") == "IMAGE_PROTECTED"
    shared.imsctl("image", "set", f"{name}-b", "--no-protect")

    fetched = tmp_path / "fetched.raw"
    shared.imsctl("image", "download", image["id"], "-o", str(fetched))
    assert fetched.read_bytes() == disk.read_bytes()
    assert refusal(shared, "image", "download", image["id"], "-o", str(fetched)) == "LOCAL_FILE"

    report = shared.imsctl_json("image", "verify", image["id"])["verify_report"]
    assert report["chunks_checked"] > 0
    assert (report["damage_count"], report["digest"]) == (0, image["digest"])
    deleted = shared.imsctl_json("image", "delete", image["id"])
    assert deleted == [{"id": image["id"], "name": f"{name}-b"}]
    assert refusal(shared, "image", "show", image["id"]) == "NOT_FOUND"


@pytest.mark.parametrize("compression", ["zstd", "zlib", "zlib-small", "none"])
def test_a_qcow2_comes_out_as_the_disk_that_came_in(
    shared: DaemonProcess, disk: Path, qcow2: Path, name: str, tmp_path: Path, compression: str
) -> None:
    image = shared.imsctl_json("image", "import", str(qcow2), "--name", name, "--format", "qcow2")
    assert image["disk_format"] == "qcow2"
    assert image["digest"] == digest(shared, qcow2) == digest(shared, disk)
    copy = tmp_path / "copy.qcow2"
    arguments = ("image", "download", name, "-o", str(copy), "--compress", compression)
    result = json.loads(shared.imsctl(*arguments, "--output-format", "json").stdout)
    assert (result["disk_format"], result["file_size"]) == ("qcow2", copy.stat().st_size)
    qemu_img("check", "-f", "qcow2", copy)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", disk, copy)
    assert digest(shared, copy) == image["digest"]
    shared.imsctl("image", "delete", name)


def test_lists_are_tables_csv_and_json_of_the_same(shared: DaemonProcess, disk: Path, name: str) -> None:
    image = shared.imsctl_json(
        "image", "import", str(disk), "--name", name, "--tag", "k=v", "--description", "a, b"
    )
    header, row = shared.imsctl("image", "list", "--name", name).stdout.splitlines()
    assert header.split()[:5] == ["ID", "NAME", "STATUS", "SYSTEM", "FORMAT"]
    assert row.split()[:6] == [image["id"], name, "active", "Other_Linux", "(64_bit)", "raw"]
    listed = image | {"guest": None}  # which is long
    assert shared.imsctl_json("image", "list", "--name", f"{name[:-2]}*") == [listed]
    text = shared.imsctl("image", "list", "--name", name, "-o", "csv").stdout
    (line,) = csv.DictReader(io.StringIO(text))
    assert (line["id"], line["name"], line["description"]) == (image["id"], name, "a, b")
    assert json.loads(line["tags"]) == {"k": "v"}
    assert shared.imsctl_json("image", "list", "--name", name, "--tag", "k=other") == []
    shared.imsctl("image", "delete", name)


def test_standard_input_becomes_an_image_and_an_image_standard_output(
    shared: DaemonProcess, disk: Path, name: str
) -> None:
    with disk.open("rb") as file:
        imported = shared.imsctl("image", "import", "-", "--name", name, "-o", "json", stdin=file)
    assert json.loads(imported.stdout)["digest"] == digest(shared, disk)
    command = [sys.executable, "-m", "imsctl", "--address", shared.address, "image", "download", name]
    fetched = subprocess.run([*command, "-o", "-"], capture_output=True, check=True, timeout=60)
    assert fetched.stdout == disk.read_bytes()
    shared.imsctl("image", "delete", name)


def test_a_detached_import_is_watched_as_a_job(shared: DaemonProcess, qcow2: Path, name: str) -> None:
    job = shared.imsctl_json("image", "import", str(qcow2), "--name", name, "--detach")
    (watched,) = shared.imsctl_json("job", "watch", job["id"])
    assert (watched["kind"], watched["state"], watched["percent"]) == ("create_image", "success", 100)
    assert shared.imsctl_json("job", "show", job["id"]) == watched
    (image_id,) = watched["image_ids"]
    assert shared.imsctl_json("image", "show", name)["id"] == image_id
    assert shared.imsctl_json("job", "list", "--image", image_id, "--state", "success") == [watched]
    assert job["id"] in shared.imsctl("job", "list").stdout
    (cancelled,) = shared.imsctl_json("job", "cancel", job["id"])
    assert cancelled["state"] == "success", "a job that has ended stays as it is"
    shared.imsctl("image", "delete", name)


def test_a_repeated_request_id_makes_no_second_image(shared: DaemonProcess, disk: Path, name: str) -> None:
    command = ("image", "import", str(disk), "--name", name, "--request-id", name)
    image = shared.imsctl_json(*command)
    assert shared.imsctl_json(*command) == image
    assert refusal(shared, *command, "--description", "another") == "REQUEST_ID_REUSED"
    assert shared.imsctl_json("image", "list", "--name", name) == [image | {"guest": None}]
    shared.imsctl("image", "delete", name)
    assert refusal(shared, *command) == "NOT_FOUND"
    assert shared.imsctl_json("image", "list", "--name", name) == []


def test_a_repeated_request_id_of_a_failed_import_fails_as_that_did(
    shared: DaemonProcess, disk: Path, name: str
) -> None:
    command = ("image", "import", str(disk), "--name", name, "--request-id", name)
    assert refusal(shared, *command, "--sha256", "00" * 32) == "DIGEST_MISMATCH"
    assert refusal(shared, *command, "--sha256", "00" * 32) == "DIGEST_MISMATCH"
    assert refusal(shared, *command) == "REQUEST_ID_REUSED"


def test_drivers_formats_and_the_service_are_shown(shared: DaemonProcess) -> None:
    drivers = shared.imsctl_json("driver", "list")
    # Of the store and of the bucket.
    assert [(found["name"], found["default"]) for found in drivers if found["state"] == "ready"] == [
        ("localfs", True),
        ("localfs", False),
    ]
    formats = {found["name"]: found["can_read"] for found in shared.imsctl_json("format", "list")}
    assert formats == {known.name: known.can_read for known in FORMATS}
    assert shared.imsctl_json("service", "info")["default_store"]


def test_every_help_page_has_an_example(shared: DaemonProcess) -> None:
    root: Any = typer.main.get_command(app)
    context: Any = typer.Context(root)
    commands: list[tuple[str, ...]] = []
    for group in GROUPS:
        below = getattr(root.get_command(context, group), "commands", None)
        commands += [(group, name) for name in below] if below else [(group,)]
    with ThreadPoolExecutor(2) as pool:
        pages = list(pool.map(lambda command: shared.imsctl(*command, "--help").stdout, commands))
    for command, page in zip(commands, pages, strict=True):
        assert "Example:" in page, command
        assert " ".join(("imsctl", *command)) in page.split("Example:")[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("image", "show", NIL), "NOT_FOUND"),
        (("image", "import", "/nonexistent", "--name", "x"), "LOCAL_FILE"),
        (("image", "import", __file__, "--name", "a/b"), "IMAGE_NAME_INVALID"),
        (("image", "import", __file__, "--name", "x", "--format", "qcow2"), "FORMAT_MISMATCH"),
        (("image", "import", __file__, "--name", "x", "--sha256", "0" * 64), "DIGEST_MISMATCH"),
        (("image", "digest", "/nonexistent"), "LOCAL_FILE"),
        (("image", "list", "--address", "unix:/nonexistent.sock"), "DAEMON_UNREACHABLE"),
        (("upload", "abort", NIL), "NOT_FOUND"),
        (("upload", "resume", NIL, __file__), "NOT_FOUND"),
    ],
)
def test_a_failure_is_one_sentence_a_hint_and_a_reason(
    shared: DaemonProcess, arguments: tuple[str, ...], reason: str
) -> None:
    images = shared.imsctl_json("image", "list")
    result = shared.imsctl(*arguments, check=False)
    assert result.returncode == 1
    assert re.fullmatch(rf"imsctl: [^\n]+ \[{reason}\]\n  [^\n]+\n", result.stderr), result.stderr
    assert shared.imsctl_json("image", "list") == images
    assert shared.imsctl_json("upload", "list") == []


@pytest.mark.parametrize("command", ["watch", "cancel", "show"])
def test_a_job_that_is_not_there_is_not_found(shared: DaemonProcess, command: str) -> None:
    result = shared.imsctl("job", command, NIL, check=False)
    assert result.returncode == 1
    assert f"imsctl: there is no job {NIL}" in result.stderr
    assert "[NOT_FOUND]" in result.stderr


def test_a_daemon_that_is_slow_to_answer_is_not_missing(shared: DaemonProcess, tmp_path: Path) -> None:
    slow = Cut(tmp_path, shared, delay_seconds=0.5)
    assert shared.imsctl_json("driver", "list", "--address", slow.address)
    slow.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("image", "import", __file__),
        ("image", "import", __file__, "--name", "x", "--format", "tape"),
        ("image", "list", "-o", "xml"),
        ("image", "set", "x"),
        ("image", "download", "x", "-o", "x.raw", "--compress", "lz4"),
        ("job", "list", "--state", "tired"),
        ("nonsense",),
    ],
)
def test_a_wrong_command_line_is_usage(shared: DaemonProcess, arguments: tuple[str, ...]) -> None:
    result = shared.imsctl(*arguments, check=False)
    assert result.returncode == 2
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_import_goes_on_when_it_is_repeated(
    cut_daemon: tuple[DaemonProcess, Cut], large: Path, number: signal.Signals
) -> None:
    daemon, cut = cut_daemon
    first = start_import(cut.address, large, "--name", "large")
    assert cut.reached.wait(60)
    first.send_signal(number)
    _, complaints = first.communicate(timeout=60)
    assert first.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert number == signal.SIGKILL or "repeat the command to go on" in complaints
    cut.go_on()
    (upload,) = daemon.imsctl_json("upload", "list")
    assert upload["state"] == "open"
    assert CUT_AFTER - PART - IN_FLIGHT <= upload["committed_offset"] < RANDOM_BYTES
    assert daemon.imsctl_json("image", "list") == []

    image, told = finish(start_import(cut.address, large, "--name", "large"))
    assert f"resuming upload {upload['id']}" in told
    assert cut.sent_bytes <= RANDOM_BYTES + PART + IN_FLIGHT
    assert image["virtual_size"] == SPARSE_BYTES
    assert image["digest"] == digest(daemon, large)
    assert daemon.imsctl_json("upload", "list") == []


def test_an_import_outlives_a_kill_of_the_daemon(cut_daemon: tuple[DaemonProcess, Cut], large: Path) -> None:
    daemon, cut = cut_daemon
    importing = start_import(cut.address, large, "--name", "large")
    assert cut.reached.wait(60)
    daemon.kill()
    cut.go_on()
    time.sleep(0.5)
    daemon.restart()
    image, _ = finish(importing)
    assert image["digest"] == digest(daemon, large)
    assert cut.sent_bytes <= RANDOM_BYTES + PART + IN_FLIGHT
    assert daemon.imsctl_json("image", "verify", "large")["verify_report"]["damage_count"] == 0


def test_an_upload_is_resumed_and_aborted_by_hand(
    cut_daemon: tuple[DaemonProcess, Cut], large: Path, disk: Path, tmp_path: Path
) -> None:
    daemon, cut = cut_daemon
    first = start_import(cut.address, large, "--name", "large")
    assert cut.reached.wait(60)
    first.kill()
    first.communicate()
    cut.go_on()
    (upload,) = daemon.imsctl_json("upload", "list")
    assert upload["id"] in daemon.imsctl("upload", "list").stdout
    assert refusal(daemon, "upload", "resume", upload["id"], str(disk)) == "LOCAL_FILE"
    other = tmp_path / "other.raw"
    with other.open("wb") as file:
        file.truncate(SPARSE_BYTES)
    assert refusal(daemon, "upload", "resume", upload["id"], str(other)) == "FAILED_PRECONDITION"
    resumed = daemon.imsctl_json("upload", "resume", upload["id"], str(large))
    assert (resumed["state"], resumed["committed_offset"]) == ("committed", SPARSE_BYTES)
    assert "is complete" in daemon.imsctl("upload", "resume", upload["id"], "-").stderr
    assert daemon.imsctl_json("upload", "abort", upload["id"]) == [{"id": upload["id"]}]
    assert daemon.imsctl_json("upload", "list") == []


def test_a_cancelled_job_leaves_no_image(
    start_daemon: Callable[..., DaemonProcess], qcow2: Path, tmp_path: Path
) -> None:
    daemon = start_daemon(max_running_create_jobs=1)
    big = tmp_path / "big.qcow2"
    big.write_bytes(as_qcow2(tmp_path, random_disk(64 * MIB)))
    running = daemon.imsctl_json("image", "import", str(big), "--name", "running", "--detach")
    waiting = daemon.imsctl_json("image", "import", str(qcow2), "--name", "waiting", "--detach")
    ended = daemon.imsctl_json("job", "cancel", waiting["id"], running["id"])
    assert ended[0]["state"] in ("cancelled", "success")
    result = daemon.imsctl("job", "watch", running["id"], waiting["id"], check=False)
    states = [job["state"] for job in ended]
    assert result.returncode == (1 if "cancelled" in states else 0)
    assert len(daemon.imsctl_json("image", "list")) == states.count("success")
