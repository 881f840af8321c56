"""`imsctl image import`, as a process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.rpc import code_pb2
from ims_client import CallFailed
from ims_client.backoff import Backoff
from imsctl.image_import import import_image
from imsctl.import_options import ImportOptions
from imsctl.session import Session, Settings

from imsd.v1 import image_pb2, job_pb2
from tests.unit.clients.conftest import Imsctl, until
from tests.unit.clients.disks import disk
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import Refusal, digest_of

MIB = 1 << 20


async def test_an_import_sends_makes_and_prints_the_image(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = disk(tmp_path)
    options = ["--name", "web", "--tag", "team=core", "--property", "a=b=c", "--description", "A disk"]
    options += ["--os-version", "Debian 12", "--min-disk", "7", "--min-ram", "512", "--max-ram", "1024"]
    outcome = await imsctl("image", "import", "disk.raw", *options, "-o", "json")
    assert outcome.code == 0, outcome.errors
    image = outcome.json
    assert image["status"] == "active"
    assert image["digest"] == digest_of(content)
    assert image["virtual_size"] == len(content)
    assert image["tags"] == {"team": "core"}
    assert image["properties"] == {"a": "b=c"}
    assert (image["min_disk"], image["min_ram"], image["max_ram"]) == (7, 512, 1024)
    assert (image["os_version"], image["description"]) == ("Debian 12", "A disk")
    assert daemon.state.contents[image["id"]] == content


async def test_an_import_in_a_table_shows_sizes_for_people(imsctl: Imsctl, tmp_path: Path) -> None:
    disk(tmp_path)
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 0
    words = " ".join(outcome.text.split())
    assert "virtual size 5.0 MiB" in words
    assert "status active" in words


async def test_standard_input_needs_no_size(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    content = random.Random(3).randbytes(3 * MIB) + bytes(4 * MIB) + b"end"
    outcome = await imsctl("image", "import", "-", "--name", "web", "--output", "json", given=content)
    assert outcome.code == 0, outcome.errors
    assert daemon.state.contents[outcome.json["id"]] == content


async def test_an_empty_input_is_refused_and_nothing_stays(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    outcome = await imsctl("image", "import", "-", "--name", "web", given=b"")
    assert outcome.code == 1
    assert (
        outcome.errors == "imsctl: standard input is empty [IMAGE_EMPTY]\n  send a file that holds a disk\n"
    )
    assert not daemon.state.uploads


async def test_an_empty_file_is_refused_before_an_upload_is_opened(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path, 0)
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 1
    assert outcome.errors == "imsctl: disk.raw is empty [IMAGE_EMPTY]\n  send a file that holds a disk\n"
    assert "CreateUpload" not in daemon.state.calls


async def test_detach_prints_the_job_and_leaves_it(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web", "--detach", "-o", "json")
    assert outcome.code == 0
    assert outcome.json["id"] in daemon.state.jobs
    assert outcome.json["kind"] == "create_image"


async def test_ctrl_c_while_sending_keeps_the_upload_and_the_next_import_resumes_it(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = disk(tmp_path, 6 * MIB)
    # Streams break again and again, so that the upload takes long enough to be interrupted.
    daemon.state.drop_at = [3 * MIB] * 50
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web")
    await until(lambda: len(daemon.state.drop_at) < 48)
    process.send_signal(signal.SIGINT)
    outcome = await imsctl.finish(process)
    assert outcome.code == 130
    (upload,) = daemon.state.uploads.values()
    assert "the upload is kept, with at least 2.0 MiB of the file [CANCELLED]" in outcome.errors
    assert f"imsctl upload abort {upload.message.id}" in outcome.errors
    daemon.state.drop_at = []
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web", "-o", "json")
    assert outcome.code == 0, outcome.errors
    assert f"resuming upload {upload.message.id} at 2.0 MiB of 6.0 MiB" in outcome.errors
    assert daemon.state.contents[outcome.json["id"]] == content
    assert daemon.state.calls.count("CreateUpload") == 1


async def test_an_import_that_is_killed_is_resumed(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = disk(tmp_path, 6 * MIB)
    daemon.state.drop_at = [5 * MIB] * 50
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web")
    await until(lambda: len(daemon.state.drop_at) < 48)
    process.kill()
    await process.wait()
    await process.communicate()
    daemon.state.drop_at = []
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web", "-o", "json")
    assert outcome.code == 0, outcome.errors
    assert daemon.state.contents[outcome.json["id"]] == content
    assert daemon.state.calls.count("CreateUpload") == 1


async def test_ctrl_c_while_reading_a_pipe_discards_what_was_sent(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    process = await imsctl.start("image", "import", "-", "--name", "web", stdin=asyncio.subprocess.PIPE)
    await until(lambda: "WriteUpload" in daemon.state.calls)
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.wait(), 10)  # its input is still open
    outcome = await imsctl.finish(process)
    assert outcome.code == 130
    assert "discarded" in outcome.errors
    assert not daemon.state.uploads


async def test_ctrl_c_ends_the_wait_for_somebody_to_write_to_a_named_pipe(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = await imsctl.start("image", "import", "pipe", "--name", "web")
    await until(lambda: "WriteUpload" in daemon.state.calls)
    process.send_signal(signal.SIGINT)
    outcome = await asyncio.wait_for(imsctl.finish(process), 10)  # no one ever opens the pipe
    assert outcome.code == 130
    assert "discarded" in outcome.errors
    assert not daemon.state.uploads


async def test_a_named_pipe_waits_for_whoever_writes_to_it(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random.Random(4).randbytes(3 * MIB + 5)
    os.mkfifo(tmp_path / "pipe")
    process = await imsctl.start("image", "import", "pipe", "--name", "web", "-o", "json")
    await until(lambda: "WriteUpload" in daemon.state.calls)
    await asyncio.to_thread((tmp_path / "pipe").write_bytes, content)
    outcome = await imsctl.finish(process)
    assert outcome.code == 0, outcome.errors
    assert daemon.state.contents[outcome.json["id"]] == content


async def test_ctrl_c_while_the_job_runs_cancels_it(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web")
    await until(lambda: "WatchJob" in daemon.state.calls)
    process.send_signal(signal.SIGINT)
    outcome = await imsctl.finish(process)
    assert outcome.code == 130
    (job,) = daemon.state.jobs.values()
    assert job.state == job_pb2.JOB_STATE_CANCELLED
    assert f"job {job.id} is cancelled and left nothing behind" in outcome.errors
    assert not daemon.state.images


async def test_a_restart_of_the_daemon_is_bridged(imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    content = disk(tmp_path)
    daemon.state.held = asyncio.Event()
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web", "-o", "json")
    await until(lambda: "WatchJob" in daemon.state.calls)
    await daemon.stop()
    await asyncio.sleep(0.4)
    await daemon.start()
    daemon.state.held.set()
    outcome = await imsctl.finish(process)
    assert outcome.code == 0, outcome.errors
    assert outcome.json["digest"] == digest_of(content)


@pytest.mark.parametrize("options", [(), ("--no-progress",)])
async def test_an_outage_while_sending_is_told_once_and_so_is_its_end(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path, options: Sequence[str]
) -> None:
    disk(tmp_path, 6 * MIB)
    daemon.state.drop_at = [3 * MIB] * 50
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web", *options)
    await until(lambda: len(daemon.state.drop_at) < 50)
    daemon.state.drop_at = []
    await daemon.stop()
    await asyncio.sleep(1)
    await daemon.start()
    outcome = await imsctl.finish(process)
    assert outcome.code == 0, outcome.errors
    note = f"the daemon does not answer ({daemon.address}), trying again for up to 120 s\n"
    assert outcome.errors.count(note) == outcome.errors.count("connected again\n") == 1


async def test_an_outage_while_the_image_is_made_is_told(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web")
    await until(lambda: "WatchJob" in daemon.state.calls)
    await daemon.stop()
    await asyncio.sleep(0.5)
    await daemon.start()
    daemon.state.held.set()
    outcome = await imsctl.finish(process)
    assert outcome.code == 0
    assert outcome.errors.count("the daemon does not answer") == 1
    assert outcome.errors.count("connected again") == 1


async def test_a_daemon_that_stays_away_is_told_with_how_to_start_it_and_how_to_go_on(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(tmp_path)

    async def has_no_patience(*_: object) -> bool:
        return False

    monkeypatch.setattr(Backoff, "wait", has_no_patience)
    daemon.state.drop_at = [MIB]
    session = Session(Settings(address=daemon.address, has_progress=False), "json")
    with pytest.raises(CallFailed) as failed:
        await import_image(session, str(tmp_path / "disk.raw"), ImportOptions(name="web"))
    assert failed.value.reason == "DAEMON_UNREACHABLE"
    (upload_id,) = daemon.state.uploads
    assert failed.value.hint == (
        "start it with `imsd serve`, or name another address with --address or IMSD_ADDRESS; "
        f"repeat the command to go on, or discard what was sent with `imsctl upload abort {upload_id}`"
    )


async def test_a_failed_job_says_why(imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    disk(tmp_path)
    daemon.state.job_failure = job_pb2.JobError(
        reason="IMAGE_BACKING_FILE", message="the image reads through another file", hint="flatten it"
    )
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 1
    assert outcome.errors == (
        "imsctl: the image reads through another file [IMAGE_BACKING_FILE]\n  flatten it\n"
    )


async def test_a_file_already_sent_is_not_sent_again(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    refusal = Refusal(code_pb2.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "too many images")
    daemon.state.refuse_next["CreateImage"] = [refusal, refusal]
    failed = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert failed.code == 1
    assert "the file is sent: repeat the command" in failed.errors
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 0
    assert "already sent" in outcome.errors
    assert daemon.state.calls.count("WriteUpload") == 1


@pytest.mark.parametrize("reason", ["CAPACITY_EXHAUSTED", "QUOTA_EXCEEDED"])
@pytest.mark.parametrize("call", ["WriteUpload", "CommitUpload"])
async def test_a_store_without_room_says_how_to_go_on_with_what_was_sent(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path, reason: str, call: str
) -> None:
    disk(tmp_path)
    refusal = Refusal(code_pb2.RESOURCE_EXHAUSTED, reason, "no room", hint="free some space")
    daemon.state.refuse_next[call] = [refusal]
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 1
    (upload_id,) = daemon.state.uploads
    how = f"repeat the command to go on, or discard what was sent with `imsctl upload abort {upload_id}`"
    assert outcome.errors == f"imsctl: no room [{reason}]\n  free some space; {how}\n"


async def test_nothing_stays_of_a_stream_that_finds_no_room(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    refusal = Refusal(code_pb2.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED", "no room", hint="free some space")
    daemon.state.refuse_next["WriteUpload"] = [refusal]
    outcome = await imsctl("image", "import", "-", "--name", "web", given=b"disk")
    assert outcome.errors == "imsctl: no room [CAPACITY_EXHAUSTED]\n  free some space\n"
    assert not daemon.state.uploads


async def test_an_import_whose_job_found_no_room_goes_on_when_it_is_repeated(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.job_failure = job_pb2.JobError(reason="CAPACITY_EXHAUSTED", message="full", hint="free some")
    for _ in range(2):
        failed = await imsctl("image", "import", "disk.raw", "--name", "web")
        (upload_id,) = daemon.state.uploads
        assert "free some; repeat the command to go on, or discard what was sent with" in failed.errors
        assert f"`imsctl upload abort {upload_id}`" in failed.errors
    daemon.state.job_failure = None
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 0, outcome.errors
    assert daemon.state.calls.count("WriteUpload") == 1


async def test_a_wrong_name_is_refused_before_the_file_is_sent(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    outcome = await imsctl("image", "import", "disk.raw", "--name", "<>")
    assert outcome.code == 1
    assert outcome.errors == "imsctl: that is no name (--name) [INVALID_REQUEST]\n"
    assert "WriteUpload" not in daemon.state.calls
    assert not daemon.state.uploads


async def test_a_committed_upload_in_use_is_not_taken(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    first = await imsctl("image", "import", "disk.raw", "--name", "one", "--detach", "-o", "json")
    second = await imsctl("image", "import", "disk.raw", "--name", "two", "--detach", "-o", "json")
    assert first.code == second.code == 0, second.errors
    assert first.json["id"] != second.json["id"]
    assert {image.name for image in daemon.state.images.values()} == {"one", "two"}


async def test_a_lost_answer_to_create_image_makes_no_second_image(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.refuse_next["CreateImage"] = [Refusal(code_pb2.UNAVAILABLE, "UNAVAILABLE", "stopping")] * 3
    outcome = await imsctl("image", "import", "disk.raw", "--name", "web")
    assert outcome.code == 0, outcome.errors
    assert len(daemon.state.images) == 1


async def test_a_wrong_declaration_is_passed_on(imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    sha256 = "AB" * 32
    outcome = await imsctl(
        "image", "import", "disk.raw", "--name", "web", "--format", "qcow2", "--sha256", sha256, "--detach"
    )
    assert outcome.code == 0
    (upload,) = daemon.state.uploads.values()
    assert upload.message.disk_format == image_pb2.DISK_FORMAT_QCOW2
    assert upload.message.expected_sha256 == sha256.lower()


async def test_a_missing_file_is_one_sentence(imsctl: Imsctl) -> None:
    outcome = await imsctl("image", "import", "missing.raw", "--name", "web")
    assert outcome.code == 1
    sentence = "imsctl: cannot read missing.raw: No such file or directory [LOCAL_FILE]"
    assert outcome.errors == f"{sentence}\n  check the path\n"


@pytest.mark.parametrize("command", ["import", "register"])
async def test_what_is_no_file_but_may_be_an_object_is_told_of_its_option(
    imsctl: Imsctl, daemon: FakeDaemon, command: str
) -> None:
    daemon.add_image("web", b"x" * 4096)
    words = ("web", "main:debian.qcow2") if command == "register" else ("main:debian.qcow2", "--name", "new")
    outcome = await imsctl("image", command, *words)
    assert outcome.code == 1
    sentence = "imsctl: cannot read main:debian.qcow2: No such file or directory [LOCAL_FILE]"
    hint = "an object of a bucket: add --from-bucket; a file: check the path"
    assert outcome.errors == f"{sentence}\n  {hint}\n"


async def test_a_file_with_a_colon_in_its_name_is_a_file(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    (tmp_path / "disk.raw").rename(tmp_path / "main:disk.raw")
    outcome = await imsctl("image", "import", "main:disk.raw", "--name", "web")
    assert (outcome.code, [image.name for image in daemon.state.images.values()]) == (0, ["web"])


async def test_progress_is_a_line_every_few_seconds_on_standard_error(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web", "-o", "json")
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), 30)
    daemon.state.held.set()
    outcome = await imsctl.finish(process)
    assert outcome.code == 0
    assert line.startswith(b"store ")
    assert outcome.json["name"] == "web"
