"""Tables 5-1 and 5-2, row by row: what of them concerns files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from imsd.v1 import catalog_pb2, guest_pb2, image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.constraints_world import (
    DISK,
    OWNER,
    Refusal,
    copy_request,
    limit,
    owned_image,
    refusal,
)
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import as_qcow2, qemu_img, random_disk
from tests.packages import ova
from tests.unit.formats.crafted_iso import disc
from tests.unit.guest.crafted_guest import GOOD, ext4, mbr_disk

FORMATS = ("VMDK", "VHD", "QCOW2", "RAW", "VHDX", "QED", "VDI", "QCOW", "ZVHD2", "ZVHD")
MIB = 1 << 20


async def test_table_5_1_only_one_image_can_be_created_in_each_task(stubs: Stubs, tmp_path: Path) -> None:
    """A package of several disks is a task for each, in the hand of the one that was asked for."""
    disks = {f"disk{number}.qcow2": as_qcow2(tmp_path, DISK * number) for number in (1, 2, 3)}
    job = await wire.ended(stubs, await wire.start_image(stubs, await wire.send(stubs, ova(disks))))
    assert (job.state, len(job.sub_job_ids)) == (job_pb2.JOB_STATE_SUCCESS, 3)
    made = []
    for each in job.sub_job_ids:
        part = await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=each))
        assert len(part.image_ids) == 1
        made += part.image_ids
    assert sorted(made) == sorted(job.image_ids)
    assert len(set(made)) == 3


async def test_table_5_2_importing_a_system_disk_image_from_an_external_image_file(
    stubs: Stubs, tmp_path: Path
) -> None:
    """What the guide to preparing an image file asks for is looked at, and what is missing is said."""
    good = await wire.import_disk(stubs, mbr_disk(ext4(tmp_path / "good.ext4", GOOD)))
    assert good.kind == image_pb2.IMAGE_KIND_SYSTEM_DISK
    severe = guest_pb2.GuestFinding.SEVERITY_BLOCKS_BOOT
    assert [each.code for each in good.guest.findings if each.severity == severe] == []
    kernel_only = {path: content for path, content in GOOD.items() if "/boot/" not in path}
    bad = await wire.import_disk(stubs, mbr_disk(ext4(tmp_path / "bad.ext4", kernel_only)))
    assert bad.status == image_pb2.IMAGE_STATUS_ACTIVE
    blocking = [each for each in bad.guest.findings if each.severity == severe]
    assert blocking
    assert all(each.remedy for each in blocking)


async def test_table_5_2_importing_a_system_disk_image_from_an_iso_file(stubs: Stubs) -> None:
    image = await owned_image(stubs, disc(bootable=True))
    assert (image.kind, image.disk_format) == (image_pb2.IMAGE_KIND_ISO, image_pb2.DISK_FORMAT_ISO)


async def test_table_5_2_importing_a_data_disk_image_from_an_external_image_file(
    stubs: Stubs, tmp_path: Path
) -> None:
    """40 to 2048 GB, and at least as big as the disk in the file."""
    assert (await limit(stubs, "min_data_disk_gb"), await limit(stubs, "max_data_disk_gb")) == (40, 2048)
    kind = {"kind": image_pb2.IMAGE_KIND_DATA_DISK, "project_id": OWNER}
    upload = await wire.send(stubs, DISK, project_id=OWNER)
    for size_gb in (1, 39, 2049):
        refused = await refusal(wire.start_image(stubs, upload, min_disk_gb=size_gb, **kind))
        assert refused == Refusal("INVALID_REQUEST", "IMG.0055")
    image = await owned_image(stubs, kind=image_pb2.IMAGE_KIND_DATA_DISK)
    assert image.min_disk_gb == 40
    large = tmp_path / "large.qcow2"
    large.write_bytes(as_qcow2(tmp_path, DISK))
    qemu_img("resize", large, "50G")
    upload = await wire.send(stubs, large.read_bytes(), project_id=OWNER)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload, min_disk_gb=49, **kind))
    assert job.error.reason == "MIN_DISK_TOO_SMALL"


async def test_table_5_2_image_format(stubs: Stubs) -> None:
    """The formats of the row can be read; each is imported by `test_every_format`."""
    known = await stubs.catalog.ListFormats(catalog_pb2.ListFormatsRequest())
    readable = {each.disk_format for each in known.formats if each.can_read}
    assert {image_pb2.DiskFormat.Value(f"DISK_FORMAT_{name}") for name in FORMATS} <= readable
    of_the_future = await wire.send(stubs, b"QFI\xfb\x00\x00\x00\x09" + bytes(MIB))
    job = await wire.ended(stubs, await wire.start_image(stubs, of_the_future))
    assert job.error.reason == "FORMAT_UNSUPPORTED"
    refused = await refusal(wire.open_upload(stubs, disk_format=99))
    assert refused.reason == "INVALID_REQUEST"


async def test_table_5_2_the_iso_image_cannot_be_replicated(stubs: Stubs) -> None:
    image = await owned_image(stubs, disc(bootable=True))
    refused = await refusal(stubs.images.CopyImage(copy_request(image.id)))
    assert refused == Refusal("IMAGE_KIND_UNSUITED", "")


async def test_table_5_2_image_size_up_to_128_gb_and_fast_up_to_1_tb(
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    """Limits of other values, on real bytes."""
    daemon = start_daemon(limits__max_import_bytes="1MiB", limits__max_fast_import_bytes="2MiB")
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        too_large = Refusal("IMAGE_FILE_TOO_LARGE", "IMG.0059")
        await wire.import_disk(stubs, random_disk(MIB))
        assert await refusal(wire.open_upload(stubs, size_bytes=MIB + 1)) == too_large
        assert await refusal(wire.send(stubs, random_disk(MIB + 512), size_bytes=0)) == too_large
        fast = await wire.send(stubs, random_disk(2 * MIB), is_fast=True)
        job = await wire.start_image(stubs, fast, is_fast=True, os_version="Debian GNU/Linux 12.0.0 64bit")
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_SUCCESS
        assert await refusal(wire.open_upload(stubs, size_bytes=2 * MIB + 1, is_fast=True)) == too_large


async def test_table_5_2_the_limits_of_the_image_size_are_those_of_the_row(stubs: Stubs) -> None:
    assert await limit(stubs, "max_import_bytes") == 128 << 30
    assert await limit(stubs, "max_fast_import_bytes") == 1 << 40
    too_large = Refusal("IMAGE_FILE_TOO_LARGE", "IMG.0059")
    assert await refusal(wire.open_upload(stubs, size_bytes=(128 << 30) + 1)) == too_large
    assert await refusal(wire.open_upload(stubs, size_bytes=(1 << 40) + 1, is_fast=True)) == too_large
    qcow2 = wire.open_upload(stubs, disk_format=image_pb2.DISK_FORMAT_QCOW2, is_fast=True)
    assert await refusal(qcow2) == Refusal("FAST_IMPORT_UNSUITED", "IMG.0158")
    for size, is_fast in ((128 << 30, False), (1 << 40, True)):
        assert (await wire.open_upload(stubs, size_bytes=size, is_fast=is_fast)).id
