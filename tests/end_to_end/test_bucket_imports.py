"""Images of objects: files that somebody put into a bucket's folder, with a real daemon."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.v1 import bucket_pb2, image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk

StartDaemon = Callable[..., DaemonProcess]


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


def bucket_of(daemon: DaemonProcess) -> Path:
    return daemon.state_dir / "bucket"


async def create(stubs: Stubs, **fields: Any) -> job_pb2.Job:
    request = image_pb2.CreateImageRequest(**({"name": "disk"} | fields))
    job: job_pb2.Job = await stubs.images.CreateImage(request)
    return job


async def refusal(stubs: Stubs, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await create(stubs, **fields)
    return wire.reason_of(refused.value)


async def fetched(stubs: Stubs, job: job_pb2.Job, bytes_done: int) -> None:
    """Watch until so much has come."""
    async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
        if now.progress.phase == "fetch" and now.progress.bytes_done >= bytes_done:
            return
        assert now.state not in wire.FINAL, now


def test_a_newcomer_finds_a_bucket_and_imports_from_it(daemon: DaemonProcess, tmp_path: Path) -> None:
    disk = patterned_disk(6 * MIB)
    (bucket_of(daemon) / "images").mkdir()
    (bucket_of(daemon) / "images" / "Debian.qcow2").write_bytes(as_qcow2(tmp_path, disk))
    assert [each["name"] for each in daemon.imsctl_json("bucket", "list")] == ["main"]
    assert "main" in daemon.imsctl("bucket", "list").stdout
    listed = daemon.imsctl_json("object", "list", "main", "images/")
    assert [each["name"] for each in listed] == ["images/Debian.qcow2"]
    assert "images/Debian.qcow2" in daemon.imsctl("object", "list", "main").stdout
    place = "main:images/Debian.qcow2"
    image = daemon.imsctl_json("image", "import", "--from-bucket", place, "--name", "debian")
    assert (image["status"], image["disk_format"], image["virtual_size"]) == ("active", "qcow2", len(disk))
    drivers = daemon.imsctl_json("driver", "list")
    kinds = [(each["kind"], each["instance"]) for each in drivers if each["state"] == "ready"]
    assert kinds == [("store", "main"), ("bucket", "main")]
    refused = daemon.imsctl("image", "import", "--from-bucket", "debian.raw", "--name", "d", check=False)
    assert refused.returncode == 2
    assert "BUCKET:OBJECT" in refused.stderr


async def test_an_object_is_checked_and_named(daemon: DaemonProcess, stubs: Stubs) -> None:
    disk = random_disk(9 * MIB + 512)
    (bucket_of(daemon) / "a").mkdir()
    (bucket_of(daemon) / "a" / "disk.raw").write_bytes(disk)
    job = await create(stubs, object="main:a/disk.raw", expected_sha256=hashlib.sha256(disk).hexdigest())
    upload = (await wire.uploads_of(stubs))[0]
    assert (upload.file_name, list(job.upload_ids)) == ("disk.raw", [upload.id])
    done = await wire.ended(stubs, job)
    assert done.state == job_pb2.JOB_STATE_SUCCESS, done
    assert await wire.download(stubs, done.image_ids[0]) == disk
    wrong = await create(stubs, object="main:a/disk.raw", expected_sha256="0" * 64)
    assert (await wire.ended(stubs, wrong)).error.reason == "DIGEST_MISMATCH"
    assert (bucket_of(daemon) / "a" / "disk.raw").read_bytes() == disk
    await wire.becomes_empty(daemon, "staging/")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (":disk.raw", "BUCKET_NAME_EMPTY"),
        ("m_n:disk.raw", "BUCKET_NAME_INVALID"),
        ("other:disk.raw", "BUCKET_NOT_FOUND"),
        ("web-only:disk.raw", "BUCKET_NOT_FOUND"),
        ("far:disk.raw", "BUCKET_UNSUITED"),
        ("main:", "OBJECT_NAME_EMPTY"),
        ("main:../imsd.sqlite3", "OBJECT_NAME_INVALID"),
        ("main:two words", "OBJECT_NAME_HAS_SPACE"),
        ("main:missing", "OBJECT_NOT_FOUND"),
        ("main:folder", "OBJECT_NOT_FOUND"),
        ("main:link", "OBJECT_NOT_FOUND"),
        ("main:outside/imsd.sqlite3", "OBJECT_NOT_FOUND"),
        ("main:pipe", "OBJECT_NOT_FOUND"),
        ("main:empty", "IMAGE_EMPTY"),
    ],
)
async def test_what_is_no_object_of_the_project_is_refused_at_once(
    start_daemon: StartDaemon, tmp_path: Path, place: str, reason: str
) -> None:
    config = tmp_path / "imsd.toml"
    sections = {
        "main": 'projects = ["default"]',
        "web-only": 'projects = ["web"]',
        "far": 'projects = ["*"]\nregion = "far"',
    }
    for name in sections:
        (tmp_path / name).mkdir()
    config.write_text(
        "\n".join(
            f'[buckets.{name}]\ndriver = "localfs"\npath = "{tmp_path / name}"\n{said}'
            for name, said in sections.items()
        )
    )
    daemon = start_daemon(config=config)
    folder = tmp_path / "main"
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("/etc/hostname")
    (folder / "outside").symlink_to(daemon.state_dir)
    (folder / "empty").touch()
    os.mkfifo(folder / "pipe")
    async with connected(daemon) as stubs:
        assert await refusal(stubs, object=place) == reason
        assert daemon.rows() == {}
        listed = await stubs.buckets.ListObjects(bucket_pb2.ListObjectsRequest(bucket="main"))
        assert [each.name for each in listed.objects] == ["empty"]


@pytest.mark.parametrize("is_qcow2", [False, True])
async def test_a_fetch_goes_on_after_a_kill_where_it_was(
    start_daemon: StartDaemon, tmp_path: Path, is_qcow2: bool
) -> None:
    disk = random_disk(128 * MIB)
    daemon = start_daemon(upload_part_bytes=4 * MIB)
    file = bucket_of(daemon) / "disk"
    file.write_bytes(as_qcow2(tmp_path, disk) if is_qcow2 else disk)
    async with connected(daemon) as stubs:
        job = await create(stubs, object="main:disk")
        await fetched(stubs, job, 24 * MIB)
    daemon.kill()
    assert daemon.value("SELECT committed_offset FROM upload") >= 8 * MIB
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert (done.state, done.attempt) == (job_pb2.JOB_STATE_SUCCESS, 2), done
        assert await wire.download(stubs, done.image_ids[0]) == disk


@pytest.mark.parametrize("is_down", [False, True])
async def test_an_object_that_is_replaced_becomes_no_image(
    start_daemon: StartDaemon, tmp_path: Path, is_down: bool
) -> None:
    daemon = start_daemon(upload_part_bytes=4 * MIB)
    file, other = bucket_of(daemon) / "disk", tmp_path / "other"
    file.write_bytes(random_disk(128 * MIB))
    other.write_bytes(random_disk(128 * MIB, seed=2))
    async with connected(daemon) as stubs:
        job = await create(stubs, object="main:disk")
        await fetched(stubs, job, 8 * MIB)
        if is_down:
            daemon.kill()
        os.rename(other, file)
    if is_down:
        daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert (done.state, done.error.reason) == (job_pb2.JOB_STATE_FAIL, "FAILED_PRECONDITION"), done
        assert "object was changed" in done.error.message
        assert not await wire.images_of(stubs)
    await wire.leaves_nothing(daemon)


async def test_a_cancelled_fetch_leaves_nothing_and_the_object_stays(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(upload_part_bytes=4 * MIB)
    file, disk = bucket_of(daemon) / "disk", random_disk(128 * MIB)
    file.write_bytes(disk)
    async with connected(daemon) as stubs:
        job = await create(stubs, object="main:disk")
        await fetched(stubs, job, 12 * MIB)
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
        assert (daemon.blobs(), daemon.rows()) == ({}, {})
    assert file.read_bytes() == disk


async def test_a_repeated_request_gets_its_job_when_the_object_is_gone(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    file = bucket_of(daemon) / "disk"
    file.write_bytes(patterned_disk(MIB))
    first = await create(stubs, object="main:disk", request_id="once")
    await wire.ended(stubs, first)
    file.unlink()
    assert (await create(stubs, object="main:disk", request_id="once")).id == first.id
    assert await refusal(stubs, object="main:disk", request_id="twice") == "OBJECT_NOT_FOUND"


async def test_many_objects_at_once(daemon: DaemonProcess, stubs: Stubs) -> None:
    disks = [random_disk(5 * MIB, seed=number) for number in range(12)]
    for number, disk in enumerate(disks):
        (bucket_of(daemon) / f"{number}.raw").write_bytes(disk)
    jobs = await asyncio.gather(
        *(create(stubs, object=f"main:{number}.raw", name=str(number)) for number in range(12))
    )
    done = await asyncio.gather(*(wire.ended(stubs, job) for job in jobs))
    assert {job.state for job in done} == {job_pb2.JOB_STATE_SUCCESS}
    assert await wire.download(stubs, done[7].image_ids[0]) == disks[7]
