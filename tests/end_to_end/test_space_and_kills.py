"""A daemon that is killed again and again at any moment, while images come, go, are copied and repacked.

Whatever was promised must be there afterwards, byte for byte; what nobody needs must be gone, all of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import grpc
import pytest

from imsd.chunks.index import content_blob, locations_blob, pack_blob
from imsd.v1 import image_pb2, job_pb2, upload_pb2
from imsd.v1 import store_upkeep_pb2 as upkeep_pb
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk

KILLS = 5
PIECES = [random_disk(MIB // 2, seed=seed) for seed in range(8)]
GAP = bytes(256 << 10)  # zeros end a chunk, so equal pieces are equal chunks

Act = Callable[[Stubs, random.Random], Coroutine[Any, Any, None]]


def disk_of(name: str) -> bytes:
    """The name of an image says what is on its disk."""
    return b"".join(PIECES[int(digit)] + GAP for digit in name.partition("-")[0])


async def import_one(stubs: Stubs, dice: random.Random) -> None:
    digits = "".join(str(dice.randrange(len(PIECES))) for _ in range(dice.randrange(1, 7)))
    name = f"{digits}-{dice.randrange(10**9)}"
    await wire.import_disk(stubs, disk_of(name), name=name, disk_format=image_pb2.DISK_FORMAT_RAW)


async def delete_one(stubs: Stubs, dice: random.Random) -> None:
    image = await some_image(stubs, dice)
    if image:
        await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=image.id, is_final=True))


async def delete_and_bring_back(stubs: Stubs, dice: random.Random) -> None:
    image = await some_image(stubs, dice)
    if image:
        await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=image.id))
        await stubs.images.UndeleteImage(image_pb2.UndeleteImageRequest(image_id=image.id))


async def copy_one(stubs: Stubs, dice: random.Random) -> None:
    image = await some_image(stubs, dice)
    if image:
        request = image_pb2.CopyImageRequest(image_id=image.id, name=f"{image.name}-c")
        await wire.ended(stubs, await stubs.images.CopyImage(request))


async def read_one(stubs: Stubs, dice: random.Random) -> None:
    image = await some_image(stubs, dice)
    if image:
        content = await wire.download(stubs, image.id, disk_format=image_pb2.DISK_FORMAT_RAW)
        assert content == disk_of(image.name)


async def repack(stubs: Stubs, dice: random.Random) -> None:
    await stubs.store_upkeep.RepackStore(upkeep_pb.RepackStoreRequest(dead_percent=1))


async def scrub(stubs: Stubs, dice: random.Random) -> None:
    await stubs.store_upkeep.ScrubStore(upkeep_pb.ScrubStoreRequest(bytes_per_second=0))


ACTS: tuple[Act, ...] = (
    *(import_one,) * 4,
    *(delete_one,) * 3,
    delete_and_bring_back,
    copy_one,
    *(read_one,) * 2,
    *(repack,) * 2,
    scrub,
)


async def some_image(stubs: Stubs, dice: random.Random) -> image_pb2.Image | None:
    images = [each for each in await wire.images_of(stubs) if each.status == image_pb2.IMAGE_STATUS_ACTIVE]
    return dice.choice(images) if images else None


async def keep_busy(stubs: Stubs, dice: random.Random) -> None:
    """One caller, who does one thing after the other and minds no refusal."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            await dice.choice(ACTS)(stubs, dice)
        await asyncio.sleep(0)


async def busy_until_killed(daemon: DaemonProcess, dice: random.Random) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        callers = [
            asyncio.create_task(keep_busy(Stubs(channel), random.Random(dice.random()))) for _ in range(3)
        ]
        await asyncio.sleep(dice.uniform(0.5, 4.0))
        daemon.kill()
        for caller in callers:
            caller.cancel()
        for outcome in await asyncio.gather(*callers, return_exceptions=True):
            # A read that the kill broke off is no wrong read.
            assert isinstance(outcome, asyncio.CancelledError | AssertionError), outcome


async def all_jobs_end(stubs: Stubs) -> None:
    while True:
        jobs = (await stubs.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=1000))).jobs
        open_jobs = [job for job in jobs if job.state not in wire.FINAL]
        if not open_jobs:
            return
        await wire.ended(stubs, open_jobs[0])


def needed(daemon: DaemonProcess) -> set[str]:
    """The blobs of packs and manifests that the database knows."""
    packs = daemon.values("SELECT id FROM pack")
    manifests = daemon.values("SELECT id FROM manifest")
    parts = {str(part(each)) for each in manifests for part in (content_blob, locations_blob)}
    return {str(pack_blob(each)) for each in packs} | parts


@pytest.mark.slow
async def test_kills_at_any_moment_lose_nothing_and_leave_nothing(
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    dice = random.Random(5)
    daemon = start_daemon(sweep_interval_seconds=0.3, repack_dead_percent=0)
    for _ in range(KILLS):
        await busy_until_killed(daemon, dice)
        daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        await all_jobs_end(stubs)
        images = await wire.images_of(stubs)
        assert images
        for image in images:
            assert image.status == image_pb2.IMAGE_STATUS_ACTIVE, image
            content = await wire.download(stubs, image.id, disk_format=image_pb2.DISK_FORMAT_RAW)
            assert content == disk_of(image.name), image.name
        # Uploads that nobody took are dropped as their owners would drop them.
        for upload in await wire.uploads_of(stubs):
            await stubs.uploads.DeleteUpload(upload_pb2.DeleteUploadRequest(upload_id=upload.id))
        holding = {each.id for each in images}
        async with asyncio.timeout(60):
            while not (
                set(daemon.values("SELECT DISTINCT holder_id FROM manifest_holder")) == holding
                and set(daemon.values("SELECT DISTINCT holder_kind FROM pack_reference")) <= {"manifest"}
                and set(daemon.blobs()) == needed(daemon)
            ):
                await asyncio.sleep(0.2)
        report = await stubs.store_upkeep.ScrubStore(upkeep_pb.ScrubStoreRequest(is_anew=True))
        assert (await wire.ended(stubs, report)).scrub_report.damaged_blobs == 0
