"""An image comes in, is stored once, goes out again: the bytes are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk

RAW, QCOW2 = image_pb2.DISK_FORMAT_RAW, image_pb2.DISK_FORMAT_QCOW2
VMDK = image_pb2.DISK_FORMAT_VMDK


@pytest.mark.parametrize("size", [512, 65536, 3 * MIB + 512, 20 * MIB])
async def test_a_raw_disk_comes_back(stubs: Stubs, size: int) -> None:
    disk = patterned_disk(size, data_share=0.7) if size > 65536 else random_disk(size)
    image = await wire.import_disk(stubs, disk)
    assert image.disk_format == RAW
    assert image.virtual_size_bytes == size
    assert await wire.download(stubs, image.id) == disk


async def test_an_odd_raw_disk_is_rounded_up_to_a_sector(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, b"x" * 1000)
    assert image.virtual_size_bytes == 1024
    assert [finding.code for finding in image.findings] == ["RAW_SIZE_ROUNDED_UP"]
    assert await wire.download(stubs, image.id) == b"x" * 1000 + bytes(24)


async def test_a_second_import_of_the_same_disk_stores_nothing(daemon: DaemonProcess, stubs: Stubs) -> None:
    disk = patterned_disk(16 * MIB)
    first = await wire.import_disk(stubs, disk)
    packs = daemon.blobs("packs/")
    second = await wire.import_disk(stubs, disk, name="again")
    assert first.new_size_bytes > 0
    assert second.new_size_bytes == 0
    assert second.digest == first.digest
    assert daemon.blobs("packs/") == packs


async def test_projects_share_no_chunks(stubs: Stubs) -> None:
    disk = patterned_disk(4 * MIB)
    await wire.import_disk(stubs, disk)
    upload = await wire.send(stubs, disk, project_id="other")
    job = await stubs.images.CreateImage(
        image_pb2.CreateImageRequest(project_id="other", name="same", upload_id=upload.id)
    )
    watch = stubs.jobs.WatchJob(job_pb2.WatchJobRequest(project_id="other", job_id=job.id))
    assert [now async for now in watch][-1].state == job_pb2.JOB_STATE_SUCCESS
    image = await stubs.images.GetImage(
        image_pb2.GetImageRequest(project_id="other", image_id=job.image_ids[0])
    )
    assert image.new_size_bytes > 0


async def test_deleting_the_last_image_empties_the_store(daemon: DaemonProcess, stubs: Stubs) -> None:
    disk = patterned_disk(8 * MIB)
    images = [await wire.import_disk(stubs, disk), await wire.import_disk(stubs, disk)]
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=images[0].id, is_final=True))
    assert await wire.download(stubs, images[1].id) == disk
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=images[1].id, is_final=True))
    await wire.becomes_empty(daemon)


async def test_an_image_deleted_while_it_is_downloaded_comes_whole(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    disk = random_disk(24 * MIB)
    image = await wire.import_disk(stubs, disk)
    content = bytearray()
    async for message in stubs.images.DownloadImage(image_pb2.DownloadImageRequest(image_id=image.id)):
        if message.data and not content:
            await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=image.id, is_final=True))
        content += message.data
    assert bytes(content) == disk
    await wire.becomes_empty(daemon)


async def test_a_damaged_pack_is_found_and_never_served(daemon: DaemonProcess, stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(2 * MIB))
    packs = daemon.blobs("packs/")
    pack = max(packs, key=lambda name: packs[name])
    with (daemon.store / pack).open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    job = await stubs.images.VerifyImage(image_pb2.VerifyImageRequest(image_id=image.id))
    report = (await wire.ended(stubs, job)).verify_report
    assert report.damage_count == 1
    assert report.digest == ""
    assert report.damage[0].blob_id == pack
    for disk_format in (RAW, QCOW2):
        with pytest.raises(Exception, match="DATA_LOSS"):
            await wire.download(stubs, image.id, disk_format=disk_format)


async def test_verify_finds_a_sound_image_sound(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, patterned_disk(5 * MIB))
    job = await stubs.images.VerifyImage(image_pb2.VerifyImageRequest(image_id=image.id))
    report = (await wire.ended(stubs, job)).verify_report
    assert report.damage_count == 0
    assert report.digest == image.digest


async def test_a_staged_byte_that_changes_never_becomes_an_image(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    daemon = start_daemon()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.send(stubs, as_qcow2(tmp_path, random_disk(4 * MIB)))
        (staged,) = daemon.blobs("staging/")
        with (daemon.store / staged).open("r+b") as file:
            file.seek(3 * MIB)
            byte = file.read(1)
            file.seek(3 * MIB)
            file.write(bytes([byte[0] ^ 1]))
        job = await wire.ended(stubs, await wire.start_image(stubs, upload))
        assert job.state == job_pb2.JOB_STATE_FAIL
        assert job.error.reason == "DATA_LOSS"
        assert not await wire.images_of(stubs)
