"""A daemon whose images and buckets lie in a real S3 service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from imsd_s3.connection import opened_connection
from imsd_s3.objects import list_uploads
from imsd_s3.options import S3StoreOptions
from imsd_s3.store import open_s3_store

from imsd.core.store_ownership import OWNER_BLOB
from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk
from tests.faulty_way import Fault, faulty_way
from tests.seaweedfs import ADMIN, READER, SeaweedFS

StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def options(seaweedfs: SeaweedFS, s3_bucket: str, tmp_path: Path) -> S3StoreOptions:
    return S3StoreOptions(
        bucket=s3_bucket,
        endpoint=seaweedfs.endpoint,
        prefix="images",
        keys_file=ADMIN.write(tmp_path / "keys"),
        part_bytes=5 * MIB,
    )


def configured(options: S3StoreOptions, tmp_path: Path, more: str = "", endpoint: str = "") -> list[str]:
    """Flags of a daemon whose default store is in the bucket."""
    path = tmp_path / "imsd.toml"
    path.write_text(
        f"""
default_store = "main"
[stores.main]
driver = "s3"
bucket = "{options.bucket}"
endpoint = "{endpoint or options.endpoint}"
prefix = "{options.prefix}"
keys_file = "{options.keys_file}"
part_bytes = {options.part_bytes}
{more}
"""
    )
    return ["--config", str(path)]


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


async def blobs(options: S3StoreOptions) -> list[str]:
    async with open_s3_store(options) as store:
        return [found.id async for found in store.list() if found.id != OWNER_BLOB]


async def becomes_empty(options: S3StoreOptions) -> None:
    deadline = time.monotonic() + 30
    while found := await blobs(options):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)


async def test_an_image_lies_in_the_bucket_until_it_is_deleted(
    start_daemon: StartDaemon, options: S3StoreOptions, tmp_path: Path
) -> None:
    disk = patterned_disk(40 * MIB)
    daemon = start_daemon(options=configured(options, tmp_path))
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, as_qcow2(tmp_path, disk))
        assert image.status == image_pb2.IMAGE_STATUS_ACTIVE
        assert {blob.split("/")[0] for blob in await blobs(options)} == {"packs", "manifests"}
        assert await wire.download(stubs, image.id) == disk
    verified = await asyncio.to_thread(daemon.imsctl, "image", "verify", image.id)
    assert verified.returncode == 0
    await asyncio.to_thread(daemon.imsctl, "image", "delete", image.id, "--now")
    await becomes_empty(options)
    said = daemon.log.read_text() + daemon.imsctl("driver", "list").stdout
    assert ADMIN.secret_key not in said
    assert daemon.blobs() == {}


async def test_a_killed_daemon_goes_on_and_leaves_no_upload_behind(
    start_daemon: StartDaemon, options: S3StoreOptions, tmp_path: Path
) -> None:
    disk = random_disk(96 * MIB)
    more = "stale_upload_hours = 0.0001"
    daemon = start_daemon(options=configured(options, tmp_path, more))
    async with connected(daemon) as stubs:
        job = await wire.start_image(stubs, await wire.send(stubs, as_qcow2(tmp_path, disk)))
        async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
            if now.progress.phase == "store" and now.progress.bytes_done >= 24 * MIB:
                break
            assert now.state not in wire.FINAL, now
    daemon.kill()
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert (done.state, done.attempt) == (job_pb2.JOB_STATE_SUCCESS, 2)
        assert await wire.download(stubs, done.image_ids[0]) == disk
    async with opened_connection(options) as connection:
        assert await list_uploads(connection, "", None) == ([], None)


async def test_a_service_that_breaks_off_now_and_then_does_no_harm(
    start_daemon: StartDaemon, options: S3StoreOptions, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    disk = random_disk(48 * MIB)
    async with faulty_way(seaweedfs.port) as way:
        flags = configured(options, tmp_path, endpoint=way.endpoint)
        daemon = await asyncio.to_thread(start_daemon, options=flags)
        for skip in range(6):  # both at once make six faults in a row: less than a request is tried again
            way.add(Fault(cut_answer_after=200, skip=10 * skip, times=3))
            way.add(Fault(cut_request_after=1 * MIB, skip=10 * skip, times=3))
        async with connected(daemon) as stubs:
            image = await wire.import_disk(stubs, as_qcow2(tmp_path, disk))
            assert await wire.download(stubs, image.id) == disk
        assert await asyncio.to_thread(daemon.stop) == 0


def test_buckets_of_the_service_take_images_and_give_them(
    start_daemon: StartDaemon, options: S3StoreOptions, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    disk = patterned_disk(30 * MIB + 512)
    name = seaweedfs.make_bucket()
    bucket = f"""
[buckets.web]
driver = "s3"
bucket = "{name}"
endpoint = "{options.endpoint}"
keys_file = "{options.keys_file}"
projects = ["*"]

[buckets.shown]
driver = "s3"
bucket = "{name}"
endpoint = "{options.endpoint}"
keys_file = "{READER.write(tmp_path / "reader")}"
projects = ["*"]
"""
    daemon = start_daemon(options=configured(options, tmp_path, bucket))
    (tmp_path / "disk.raw").write_bytes(disk)
    imported = daemon.imsctl_json("image", "import", str(tmp_path / "disk.raw"), "--name", "debian")
    daemon.imsctl("image", "export", imported["id"], "web:images/debian.qcow2")
    listed = daemon.imsctl_json("object", "list", "web")
    assert [each["name"] for each in listed] == ["images/debian.qcow2"]
    place = "shown:images/debian.qcow2"
    again = daemon.imsctl_json("image", "import", "--from-bucket", place, "--name", "again")
    target = tmp_path / "again.raw"
    daemon.imsctl("image", "download", again["id"], "--output", str(target), "--format", "raw")
    assert target.read_bytes() == disk
    refused = daemon.imsctl("image", "export", again["id"], "shown:no.qcow2", check=False)
    assert "STORE_READ_ONLY" in refused.stderr
    taken = daemon.imsctl("image", "export", again["id"], "web:images/debian.qcow2", check=False)
    assert "OBJECT_EXISTS" in taken.stderr
    assert ADMIN.secret_key not in daemon.log.read_text()
    seaweedfs.remove_bucket(name)
