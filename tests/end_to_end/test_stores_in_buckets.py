"""A daemon with a store in a directory and one in a bucket of a real S3 service: images move both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk
from tests.end_to_end.test_several_stores_wire import connected, image_of, move, reached
from tests.seaweedfs import ADMIN, READER, SeaweedFS

StartDaemon = Callable[..., DaemonProcess]

SIZE = 80 * MIB


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path, seaweedfs: SeaweedFS, s3_bucket: str) -> DaemonProcess:
    s3 = f'driver = "s3"\nendpoint = "{seaweedfs.endpoint}"\nbucket = "{s3_bucket}"\n'
    config = tmp_path / "imsd.toml"
    config.write_text(
        'default_store = "main"\n'
        f'[stores.main]\ndriver = "localfs"\npath = "{tmp_path / "main"}"\n'
        f'[stores.cloud]\n{s3}prefix = "imsd"\nkeys_file = "{ADMIN.write(tmp_path / "admin")}"\n'
        f'[stores.shown]\n{s3}prefix = "shown"\nkeys_file = "{READER.write(tmp_path / "reader")}"\n'
    )
    return start_daemon(config=config)


async def test_an_image_moves_into_a_bucket_and_back(daemon: DaemonProcess) -> None:
    disk = random_disk(SIZE)
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, disk)
        for store in ("cloud", "main"):
            job = await wire.ended(stubs, await move(stubs, image.id, store))
            assert job.state == job_pb2.JOB_STATE_SUCCESS, job
            now = await image_of(stubs, image.id)
            assert (now.store, now.digest) == (store, image.digest)
            assert await wire.download(stubs, image.id) == disk
            verified = await wire.ended(
                stubs, await stubs.images.VerifyImage(image_pb2.VerifyImageRequest(image_id=image.id))
            )
            assert verified.verify_report.digest == image.digest


async def test_a_move_into_a_bucket_goes_on_after_a_kill(daemon: DaemonProcess) -> None:
    disk = random_disk(SIZE)
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, disk)
        job = await move(stubs, image.id, "cloud")
        await reached(stubs, job, SIZE // 2)
    daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert await wire.download(stubs, image.id) == disk
        usage = daemon.imsctl_json("store", "usage", "cloud")
        assert usage["pack_bytes"] <= SIZE * 1.01, "chunks were copied twice"


async def test_an_image_is_imported_into_and_copied_out_of_a_bucket(daemon: DaemonProcess) -> None:
    disk = random_disk(8 * MIB)
    async with connected(daemon) as stubs:
        upload = await wire.send(stubs, disk, store="cloud")
        job = await wire.ended(stubs, await wire.start_image(stubs, upload))
        request = image_pb2.CopyImageRequest(image_id=job.image_ids[0], name="copy", store="main")
        copied = await wire.ended(stubs, await stubs.images.CopyImage(request))
        copy = await image_of(stubs, copied.image_ids[0])
        assert copy.store == "main"
        assert await wire.download(stubs, copy.id) == disk


@pytest.mark.parametrize("store", ["main", "cloud"])
def test_a_check_of_a_real_store_finds_every_promise_kept(daemon: DaemonProcess, store: str) -> None:
    ended = daemon.imsctl("store", "check", store)
    assert f"The store {store} does what it must" in ended.stdout
    assert "BROKEN" not in ended.stdout
    assert "A small blob is committed in" in ended.stdout


def test_a_check_of_a_bucket_with_a_key_that_only_reads_says_so(daemon: DaemonProcess) -> None:
    ended = daemon.imsctl("store", "check", "shown", check=False)
    assert ended.returncode == 1
    first, second, *_ = ended.stdout.splitlines()
    assert first.startswith("BROKEN")
    assert second.startswith("skipped")
    [listed] = daemon.imsctl_json("job", "list", "--kind", "check_store")
    assert listed["store_report"]["promises"] == []
    report = daemon.imsctl_json("job", "show", listed["id"])["store_report"]
    assert "[STORE_" in report["promises"][0]["detail"]
    assert report["rates"] is None
