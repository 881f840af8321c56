"""Deleted images keep their bytes while they may come back, through crashes, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from imsd.v1 import image_pb2 as pb
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk

StartDaemon = Callable[..., DaemonProcess]


async def reason_when(call: Any) -> str:
    """The reason of a call that fails; empty when it does not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(error)
    return ""


async def test_a_deleted_image_survives_a_crash_and_the_sweeps_and_comes_back_whole(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(sweep_interval_seconds=0.2)
    disk = random_disk(8 * MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, disk)
        await stubs.images.DeleteImage(pb.DeleteImageRequest(image_id=image.id))
    before = daemon.blobs("packs/")
    assert before
    daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        for _ in range(3):  # the space of another image goes, by sweeps that pass over this one's
            other = await wire.import_disk(stubs, random_disk(MIB))
            await stubs.images.DeleteImage(pb.DeleteImageRequest(image_id=other.id, is_final=True))
        while daemon.blobs("packs/") != before:
            await asyncio.sleep(0.05)
        back = await stubs.images.UndeleteImage(pb.UndeleteImageRequest(image_id=image.id))
        assert (back.status, back.digest) == (pb.IMAGE_STATUS_ACTIVE, image.digest)
        assert not back.HasField("purge_at")
        assert await wire.download(stubs, image.id) == disk


async def test_its_bytes_go_when_its_grace_time_ends(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(sweep_interval_seconds=0.2, undelete_hours=2 / 3600)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, random_disk(MIB))
        await stubs.images.DeleteImage(pb.DeleteImageRequest(image_id=image.id))
        await wire.becomes_empty(daemon)
        undelete = stubs.images.UndeleteImage(pb.UndeleteImageRequest(image_id=image.id))
        assert await reason_when(undelete) == "NOT_FOUND"
        assert await wire.images_of(stubs) == []
    assert set(daemon.rows()) <= {"job", "request"}


async def test_of_many_who_delete_and_undelete_at_once_the_image_is_whole_or_deleted(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    disk = random_disk(MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, disk)
        delete = pb.DeleteImageRequest(image_id=image.id)
        undelete = pb.UndeleteImageRequest(image_id=image.id)
        for _ in range(5):
            reasons = await asyncio.gather(
                *(reason_when(stubs.images.DeleteImage(delete)) for _ in range(10)),
                *(reason_when(stubs.images.UndeleteImage(undelete)) for _ in range(10)),
            )
            assert set(reasons) <= {"", "NOT_FOUND", "FAILED_PRECONDITION", "CONFLICT"}
            deleted, undeleted = reasons[:10].count(""), reasons[10:].count("")
            assert deleted - undeleted in (0, 1)
            if deleted > undeleted:
                await stubs.images.UndeleteImage(undelete)
            found = await stubs.images.GetImage(pb.GetImageRequest(image_id=image.id))
            assert found.status == pb.IMAGE_STATUS_ACTIVE
        assert await wire.download(stubs, image.id) == disk


async def test_a_download_that_runs_ends_whole_when_its_image_is_deactivated_or_purged(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(undelete_hours=0)
    disk = random_disk(24 * MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, disk)
        content = bytearray()
        async for message in stubs.images.DownloadImage(pb.DownloadImageRequest(image_id=image.id)):
            if message.data and not content:
                await stubs.images.DeactivateImage(pb.DeactivateImageRequest(image_id=image.id))
                again = wire.download(stubs, image.id)
                assert await reason_when(again) == "IMAGE_NOT_ACTIVE"
                await stubs.images.DeleteImage(pb.DeleteImageRequest(image_id=image.id))
            content += message.data
        assert bytes(content) == disk
        await wire.becomes_empty(daemon)
