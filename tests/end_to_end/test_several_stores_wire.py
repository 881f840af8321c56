"""A daemon with two stores: images are made in either, and move between them through crashes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.core.store_ownership import OWNER_BLOB
from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk

StartDaemon = Callable[..., DaemonProcess]

SIZE = 96 * MIB
MAIN, ARCHIVE = "main", "archive"


@pytest.fixture(scope="module")
def disk() -> bytes:
    return random_disk(SIZE)


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    config = tmp_path / "imsd.toml"
    sections = [
        f'[stores.{name}]\ndriver = "localfs"\npath = "{tmp_path / name}"\n' for name in (MAIN, ARCHIVE)
    ]
    config.write_text(f'default_store = "{MAIN}"\n' + "".join(sections))
    return start_daemon(config=config)


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


def files_of(daemon: DaemonProcess, store: str) -> dict[str, int]:
    """The blobs of images: what was staged for a job that has ended goes a moment later."""
    root = daemon.folder / store
    return {
        str(path.relative_to(root)): path.stat().st_size
        for path in root.rglob("*")
        if path.is_file() and path.name != OWNER_BLOB and path.relative_to(root).parts[0] != "staging"
    }


async def until_empty(daemon: DaemonProcess, store: str) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while left := files_of(daemon, store):
        assert asyncio.get_running_loop().time() < deadline, left
        await asyncio.sleep(0.05)


async def image_of(stubs: Stubs, image_id: str) -> image_pb2.Image:
    image: image_pb2.Image = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=image_id))
    return image


async def move(stubs: Stubs, image_id: str, store: str, **fields: Any) -> job_pb2.Job:
    request = image_pb2.MoveImageRequest(image_id=image_id, store=store, **fields)
    job: job_pb2.Job = await stubs.images.MoveImage(request)
    return job


async def test_an_image_lies_in_the_store_that_was_asked_for(daemon: DaemonProcess, disk: bytes) -> None:
    async with connected(daemon) as stubs:
        upload = await wire.send(stubs, disk, store=ARCHIVE)
        assert upload.store == ARCHIVE
        job = await wire.ended(stubs, await wire.start_image(stubs, upload))
        image = await image_of(stubs, job.image_ids[0])
        assert image.store == ARCHIVE
        assert files_of(daemon, MAIN) == {}
        listed = image_pb2.ListImagesRequest(filter=image_pb2.ImageFilter(stores=[ARCHIVE]))
        assert [each.id for each in (await stubs.images.ListImages(listed)).images] == [image.id]
        listed.filter.stores[:] = [MAIN]
        assert not (await stubs.images.ListImages(listed)).images
        assert await wire.download(stubs, image.id) == disk


async def test_an_unknown_store_is_told_with_those_there_are(daemon: DaemonProcess) -> None:
    async with connected(daemon) as stubs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wire.open_upload(stubs, size_bytes=MIB, store="tape")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert wire.reason_of(caught.value) == "STORE_NOT_FOUND"
    ended = daemon.imsctl("image", "import", "/dev/null", "--name", "x", "--store", "tape", check=False)
    assert ended.returncode != 0


async def test_a_moved_image_is_read_all_the_while(daemon: DaemonProcess, disk: bytes) -> None:
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, disk)
        copy_job = await stubs.images.CopyImage(image_pb2.CopyImageRequest(image_id=image.id, name="copy"))
        copy_id = (await wire.ended(stubs, copy_job)).image_ids[0]
        readers = [asyncio.create_task(wire.download(stubs, image.id)) for _ in range(3)]
        job = await wire.ended(stubs, await move(stubs, image.id, ARCHIVE, etag=image.etag))
        assert job.state == job_pb2.JOB_STATE_SUCCESS, job
        assert (job.move_report.store, job.move_report.from_store) == (ARCHIVE, MAIN)
        assert await wire.download(stubs, image.id) == disk
        assert [await reader for reader in readers] == [disk] * 3
        after = await image_of(stubs, image.id)
        assert (after.store, after.digest) == (ARCHIVE, image.digest)
        assert (await image_of(stubs, copy_id)).store == MAIN
        assert await wire.download(stubs, copy_id) == disk
        await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=copy_id, is_final=True))
        await until_empty(daemon, MAIN)
        assert await wire.download(stubs, image.id) == disk


async def reached(stubs: Stubs, job: job_pb2.Job, bytes_done: int) -> None:
    """The move has done at least so much; or it has ended: then there is nothing left to kill."""
    async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
        if now.progress.bytes_done >= bytes_done or now.progress.phase in ("commit", "done"):
            return


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
async def test_a_move_goes_on_after_a_kill_and_copies_little_twice(
    daemon: DaemonProcess, disk: bytes, share: float
) -> None:
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, disk)
        job = await move(stubs, image.id, ARCHIVE)
        await reached(stubs, job, int(SIZE * share))
    daemon.kill()
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert (await image_of(stubs, image.id)).store == ARCHIVE
        assert await wire.download(stubs, image.id) == disk
        await until_empty(daemon, MAIN)
        packed = sum(size for name, size in files_of(daemon, ARCHIVE).items() if name.startswith("packs/"))
        assert packed <= SIZE * 1.01, "chunks were copied twice"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
async def test_a_cancelled_move_leaves_the_image_and_nothing_else(
    daemon: DaemonProcess, disk: bytes, share: float
) -> None:
    async with connected(daemon) as stubs:
        image = await wire.import_disk(stubs, disk)
        before = files_of(daemon, MAIN)
        job = await move(stubs, image.id, ARCHIVE)
        await reached(stubs, job, int(SIZE * share))
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
        ended = await wire.ended(stubs, job)
        if ended.state == job_pb2.JOB_STATE_SUCCESS:  # it was faster
            assert (await image_of(stubs, image.id)).store == ARCHIVE
            return
        assert ended.state == job_pb2.JOB_STATE_CANCELLED, ended
        assert files_of(daemon, ARCHIVE) == {}
        assert files_of(daemon, MAIN) == before
        assert (await image_of(stubs, image.id)).store == MAIN
        assert await wire.download(stubs, image.id) == disk


def test_the_command_line_shows_stores_and_moves_images(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(random_disk(4 * MIB))
    made = json.loads(
        daemon.imsctl(
            "image", "import", str(file), "--name", "a", "--store", ARCHIVE, "--output", "json"
        ).stdout
    )
    assert made["store"] == ARCHIVE
    stores = daemon.imsctl_json("store", "list")
    assert [(each["name"], each["image_count"], each["default"]) for each in stores] == [
        (MAIN, 0, True),
        (ARCHIVE, 1, False),
    ]
    assert stores[1]["stored_bytes"] == made["stored_size"]
    usage = daemon.imsctl_json("store", "usage", ARCHIVE)
    assert (usage["pack_bytes"], usage["manifest_count"], usage["upload_count"]) == (
        made["stored_size"],
        1,
        0,
    )
    assert usage["projects"] == [
        {"project_id": "default", "image_count": 1, "stored_bytes": made["stored_size"]}
    ]
    assert "4.0 MiB" in daemon.imsctl("store", "show", ARCHIVE).stdout
    moved = daemon.imsctl("image", "move", "a", "--to", MAIN)
    assert "main, before archive" in moved.stdout
    assert daemon.imsctl_json("image", "show", "a")["store"] == MAIN
    again = daemon.imsctl("image", "move", "a", "--to", MAIN, check=False)
    assert again.returncode == 1
    assert "lies in the store 'main' already" in again.stderr
    unknown = daemon.imsctl("store", "show", "tape", check=False)
    assert "the stores are main, archive" in unknown.stderr
    [trace] = daemon.imsctl_json("trace", "list", "--name", "moveImage", "--outcome", "succeeded")
    assert trace["details"]["store"] == MAIN


async def test_a_store_that_is_configured_no_more_is_shown_with_what_lies_in_it(
    daemon: DaemonProcess,
) -> None:
    disk = random_disk(4 * MIB)
    async with connected(daemon) as stubs:
        upload = await wire.send(stubs, disk, store=ARCHIVE)
        image_id = (await wire.ended(stubs, await wire.start_image(stubs, upload))).image_ids[0]
    config = daemon.folder / "imsd.toml"
    whole = config.read_text()
    assert daemon.stop() == 0
    config.write_text(whole.partition(f"[stores.{ARCHIVE}]")[0])
    daemon.restart()
    missing = daemon.imsctl_json("store", "list")[1]
    assert (missing["name"], missing["state"], missing["image_count"]) == (ARCHIVE, "failed", 1)
    assert "not configured any more" in missing["detail"]
    assert daemon.imsctl_json("store", "usage", ARCHIVE)["pack_bytes"] == missing["stored_bytes"]
    for arguments in (["image", "move", image_id, "--to", MAIN], ["image", "download", image_id, "-o", "-"]):
        refused = daemon.imsctl(*arguments, check=False)
        assert refused.returncode != 0
        assert "'archive' is not configured" in refused.stderr
    assert daemon.stop() == 0
    config.write_text(whole)
    daemon.restart()
    async with connected(daemon) as stubs:
        assert await wire.download(stubs, image_id) == disk
