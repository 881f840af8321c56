"""The other commands of imsctl, as processes: results, JSON, CSV, exit codes."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import random
import signal
from pathlib import Path

import pytest
from google.rpc import code_pb2

from imsd.v1 import image_pb2, job_pb2
from tests.unit.clients.conftest import Imsctl, until
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import Refusal

MIB = 1 << 20


async def test_a_list_of_images_says_what_each_is(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image("web", kind=image_pb2.IMAGE_KIND_SYSTEM_DISK, os_version="Debian 12")
    daemon.add_image("db", kind=image_pb2.IMAGE_KIND_DATA_DISK)
    daemon.add_image("cd", kind=image_pb2.IMAGE_KIND_ISO, os_version="Debian 13", family="discs")
    header, *rows = (await imsctl("image", "list")).text.splitlines()
    at = header.index("SYSTEM")
    assert [row[at:].split("  ")[0] for row in rows] == ["Debian 12", "data disk", "disc of Debian 13"]
    listed = csv.DictReader((await imsctl("image", "list", "-o", "csv")).text.splitlines())
    assert [(row["kind"], row["family"]) for row in listed] == [
        ("system_disk", ""),
        ("data_disk", ""),
        ("iso", "discs"),
    ]
    assert {"os_type", "visibility", "architecture"} <= set(listed.fieldnames or ())


async def test_images_are_listed_through_all_pages(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    for number in range(5):
        daemon.add_image(f"image-{number}", tags={"n": str(number)})
    listed = await imsctl("image", "list", "-o", "json")
    assert [image["name"] for image in listed.json] == [f"image-{number}" for number in range(5)]
    some = await imsctl("image", "list", "--sort", "name:desc", "--limit", "3", "-o", "json")
    assert [image["name"] for image in some.json] == ["image-4", "image-3", "image-2"]
    tagged = await imsctl("image", "list", "--tag", "n=3", "--status", "active", "--format", "raw")
    assert [line.split()[1] for line in tagged.text.splitlines()] == ["NAME", "image-3"]


async def test_a_list_is_csv(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image('a "quoted", name', tags={"k": "v"}, virtual_size_bytes=123)
    outcome = await imsctl("image", "list", "-o", "csv")
    (row,) = csv.DictReader(io.StringIO(outcome.text))
    assert row["name"] == 'a "quoted", name'
    assert row["virtual_size"] == "123"
    assert row["tags"] == '{"k": "v"}'


async def test_an_image_is_shown_by_id_prefix_or_name(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    image = daemon.add_image("web")
    by_name = await imsctl("image", "show", "web", "-o", "json")
    by_prefix = await imsctl("image", "show", image.id[:8], "--output-format", "json")
    assert by_name.json == by_prefix.json
    assert by_name.json["id"] == image.id


async def test_a_name_cannot_steer_the_terminal(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image("web\x1b[2Jx")
    outcome = await imsctl("image", "list")
    assert "\x1b" not in outcome.text


async def test_set_changes_only_what_is_given(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    image = daemon.add_image("web", tags={"a": "1", "b": "2"}, properties={"x": "1", "y": "2"})
    image.min_ram_mb = 512
    options = ["--protect", "--property", "x=", "--property", "z=3", "--tag", "c=4", "--remove-tag", "a"]
    outcome = await imsctl("image", "set", "web", "--description", "new", *options, "-o", "json")
    assert outcome.code == 0, outcome.errors
    changed = outcome.json
    assert changed["properties"] == {"y": "2", "z": "3"}
    assert changed["tags"] == {"b": "2", "c": "4"}
    assert changed["protected"] is True
    assert (changed["description"], changed["min_ram"]) == ("new", 512)


async def test_set_reports_a_change_by_somebody_else(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image("web")
    daemon.state.refuse_next["UpdateImage"] = [
        Refusal(code_pb2.ABORTED, "CONFLICT", "the image was changed meanwhile", "look again")
    ]
    outcome = await imsctl("image", "set", "web", "--name", "web2")
    assert outcome.code == 1
    assert outcome.errors == "imsctl: the image was changed meanwhile [CONFLICT]\n  look again\n"


async def test_a_field_at_fault_is_named_as_the_option_that_set_it(
    imsctl: Imsctl, daemon: FakeDaemon
) -> None:
    daemon.add_image("web")
    refusal = Refusal(code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST", "max_ram_mb is too low", "", "max_ram_mb")
    daemon.state.refuse_next["UpdateImage"] = [refusal]
    outcome = await imsctl("image", "set", "web", "--max-ram", "50")
    assert outcome.errors == "imsctl: max_ram_mb is too low (--max-ram) [INVALID_REQUEST]\n"


async def test_delete_goes_on_after_a_failure(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image("kept", is_protected=True)
    daemon.add_image("gone")
    outcome = await imsctl("image", "delete", "kept", "missing", "gone", "-o", "json")
    assert outcome.code == 1
    assert [image["name"] for image in outcome.json] == ["gone"]
    assert "[IMAGE_PROTECTED]" in outcome.errors
    assert "  clear is_protected first: `imsctl image set kept --no-protect`" in outcome.errors
    assert "[NOT_FOUND]" in outcome.errors
    assert [image.name for image in daemon.state.images.values()] == ["kept"]


async def test_a_download_becomes_a_file_of_the_right_format(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(3 * MIB) + bytes(8 * MIB)
    daemon.add_image("web", content)
    outcome = await imsctl("image", "download", "web", "-o", "out.qcow2", "--output-format", "json")
    assert outcome.code == 0, outcome.errors
    assert outcome.json["disk_format"] == "qcow2"
    assert outcome.json["file_size"] == len(content)
    assert (tmp_path / "out.qcow2").read_bytes() == content
    raw = await imsctl("image", "download", "web", "--output", "out.img", "--fsync")
    assert raw.code == 0
    assert "out.img: web as raw" in raw.text


async def test_a_download_does_not_overwrite_unless_forced(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.add_image("web", b"new" * 100)
    (tmp_path / "out").write_bytes(b"old")
    refused = await imsctl("image", "download", "web", "-o", "out")
    assert refused.code == 1
    assert refused.errors == "imsctl: out exists [LOCAL_FILE]\n  use --force to replace it\n"
    assert (await imsctl("image", "download", "web", "-o", "out", "--force")).code == 0
    assert (tmp_path / "out").read_bytes() == b"new" * 100


async def test_a_download_goes_down_a_pipe(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    content = bytes(2 * MIB) + random.Random(1).randbytes(3 * MIB) + bytes(5 * MIB)
    daemon.add_image("web", content)
    outcome = await imsctl("image", "download", "web", "-o", "-")
    assert outcome.code == 0
    assert outcome.output == content


async def test_a_closed_pipe_ends_a_download_quietly(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image("web", random.Random(1).randbytes(9 * MIB))
    process = await imsctl.start("image", "download", "web", "-o", "-")
    assert process.stdout is not None
    await process.stdout.read(10)
    process.stdout._transport.close()  # type: ignore[attr-defined]  # there is no public way to stop reading
    assert process.stderr is not None
    errors = await process.stderr.read()
    assert await process.wait() == 1
    assert errors == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_download_leaves_nothing(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path, number: signal.Signals
) -> None:
    daemon.add_image("web", random.Random(1).randbytes(60 * MIB))
    daemon.state.slow_download = True
    process = await imsctl.start("image", "download", "web", "-o", "out")
    await until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
    process.send_signal(number)
    outcome = await imsctl.finish(process)
    assert outcome.code == 130
    assert outcome.errors == "imsctl: interrupted: nothing of the download is kept [CANCELLED]\n"
    assert not os.listdir(tmp_path)


async def test_a_download_that_is_cut_says_so_and_leaves_nothing(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.add_image("web", random.Random(1).randbytes(5 * MIB))
    daemon.state.cut_download_at = 2 * MIB
    outcome = await imsctl("image", "download", "web", "-o", "out")
    assert outcome.code == 1
    assert "[DAEMON_UNREACHABLE]" in outcome.errors
    assert not os.listdir(tmp_path)


async def test_a_digest_needs_no_daemon(imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 * MIB)
    image = daemon.add_image("web", content)
    (tmp_path / "disk.raw").write_bytes(content)
    remote = await imsctl("image", "digest", "web", "-o", "json")
    await daemon.stop()
    local = await imsctl("image", "digest", "disk.raw", "-o", "json")
    assert local.json["digest"] == remote.json["digest"] == image.digest
    assert local.json["disk_format"] == "raw"
    assert local.json["virtual_size"] == len(content)


async def test_a_digest_of_a_refused_file_says_why(imsctl: Imsctl, tmp_path: Path) -> None:
    (tmp_path / "empty.raw").write_bytes(b"")
    outcome = await imsctl("image", "digest", "empty.raw")
    assert outcome.code == 1
    assert "[IMAGE_EMPTY]" in outcome.errors


async def test_verify_fails_when_there_is_damage(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    daemon.add_image("web")
    sound = await imsctl("image", "verify", "web")
    assert sound.code == 0
    assert "intact" in sound.text
    daemon.state.damage = [job_pb2.Damage(guest_offset=4096, length=512, blob_id="pack-1", message="lost")]
    damaged = await imsctl("image", "verify", "web")
    assert damaged.code == 1
    assert "bytes 4096 to 4608: lost (blob pack-1)" in damaged.text
    as_json = await imsctl("image", "verify", "web", "-o", "json")
    assert as_json.json["verify_report"]["damage_count"] == 1


async def test_jobs_are_listed_shown_and_watched(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    done = daemon.add_job(job_pb2.JOB_STATE_SUCCESS)
    failed = daemon.add_job(job_pb2.JOB_STATE_FAIL)
    failed.error.reason, failed.error.message = "DATA_LOSS", "a byte is gone"
    listed = await imsctl("job", "list", "--state", "fail", "-o", "json")
    assert [job["id"] for job in listed.json] == [failed.id]
    told = {"reason": "DATA_LOSS", "message": "a byte is gone", "hint": "", "img_code": ""}
    assert listed.json[0]["error"] == told
    assert (await imsctl("job", "show", done.id)).text.startswith("id       ")
    watched = await imsctl("job", "watch", done.id, failed.id)
    assert watched.code == 1
    assert watched.text.splitlines() == [f"{done.id} success", f"{failed.id} fail"]
    assert "a byte is gone [DATA_LOSS]" in watched.errors


async def test_watching_survives_a_stream_that_ends_early(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    job = daemon.add_job(job_pb2.JOB_STATE_RUNNING)
    daemon.state.drop_watch_after = [1, 2]
    process = await imsctl.start("job", "watch", job.id)
    await until(lambda: daemon.state.calls.count("WatchJob") >= 3)
    job.state = job_pb2.JOB_STATE_SUCCESS
    assert (await imsctl.finish(process)).code == 0


async def test_ctrl_c_leaves_a_watched_job_running(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    job = daemon.add_job(job_pb2.JOB_STATE_RUNNING)
    process = await imsctl.start("job", "watch", job.id)
    await until(lambda: "WatchJob" in daemon.state.calls)
    process.send_signal(signal.SIGINT)
    outcome = await imsctl.finish(process)
    assert outcome.code == 130
    assert outcome.errors == (
        "imsctl: interrupted: the job goes on [CANCELLED]\n"
        f"  to end what still runs: `imsctl job cancel {job.id}`\n"
    )
    assert job.state == job_pb2.JOB_STATE_RUNNING


async def test_a_job_that_is_named_twice_is_watched_once(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    job = daemon.add_job(job_pb2.JOB_STATE_FAIL)
    job.error.reason, job.error.message = "DATA_LOSS", "a byte is gone"
    outcome = await imsctl("job", "watch", job.id, "nope", job.id)
    assert outcome.code == 1
    assert outcome.errors.count("a byte is gone [DATA_LOSS]") == 1
    assert outcome.text == f"{job.id} fail\n"


async def test_cancel_waits_for_the_end(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    job = daemon.add_job(job_pb2.JOB_STATE_RUNNING)
    process = await imsctl.start("job", "cancel", job.id)
    await until(lambda: job.state == job_pb2.JOB_STATE_CANCELLING)
    await asyncio.sleep(0.1)
    assert process.returncode is None
    job.state = job_pb2.JOB_STATE_CANCELLED
    outcome = await imsctl.finish(process)
    assert (outcome.code, outcome.text) == (0, f"{job.id} cancelled\n")


async def test_drivers_formats_and_the_service_are_shown(imsctl: Imsctl) -> None:
    drivers = await imsctl("driver", "list")
    assert "localfs  store  main (default)  ready  5.0 GiB  7.0 GiB  a directory" in drivers.text
    formats = await imsctl("format", "list", "-o", "json")
    assert [one["name"] for one in formats.json] == ["raw", "qcow2"]
    assert formats.json[1]["compressions"] == ["zstd", "zlib"]
    service = await imsctl("service", "info")
    assert "version              9.9.9" in service.text


async def test_no_daemon_is_told_with_how_to_start_one(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    await daemon.stop()
    outcome = await imsctl("image", "list")
    assert outcome.code == 1
    assert outcome.errors.startswith(
        f"imsctl: no imsd daemon answers at {daemon.address} [DAEMON_UNREACHABLE]"
    )
    assert "imsd serve" in outcome.errors


async def test_options_of_every_command_stand_before_or_after_it(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    image = daemon.add_image("web")
    before = await imsctl("--project", "p1", "--no-progress", "image", "show", "web", "-o", "json")
    after = await imsctl("image", "show", "web", "--project", "p1", "--address", daemon.address, "-o", "json")
    assert before.json == after.json
    assert before.json["id"] == image.id


async def test_a_reader_that_leaves_ends_a_list_quietly(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    for number in range(300):
        daemon.add_image(f"image-{number}", description="x" * 500)
    process = await imsctl.start("image", "list", "-o", "json")
    assert process.stdout is not None
    await process.stdout.read(10)
    process.stdout._transport.close()  # type: ignore[attr-defined]  # there is no public way to stop reading
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert await process.wait() == 1


async def test_a_status_this_client_does_not_know_is_shown_as_its_number(
    imsctl: Imsctl, daemon: FakeDaemon
) -> None:
    daemon.add_image("web", status=image_pb2.ImageStatus.ValueType(77))
    assert (await imsctl("image", "show", "web", "-o", "json")).json["status"] == "77"
