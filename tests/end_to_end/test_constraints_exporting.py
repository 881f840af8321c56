"""Table 5-5, and of Table 5-6 the row of deleting, row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.constraints_world import (
    DISK,
    MIB,
    OWNER,
    Refusal,
    limit,
    owned_image,
    refusal,
    set_column,
)
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import qemu_img, random_disk
from tests.unit.formats.crafted_iso import disc

GIB = 1 << 30
TIB = 1 << 40
StartDaemon = Callable[..., DaemonProcess]


def request(image_id: str, **fields: Any) -> image_pb2.ExportImageRequest:
    """An export as qcow2, unless ``fields`` say otherwise."""
    default: dict[str, Any] = {"project_id": OWNER, "target": "main:disk"}
    if not fields.get("is_fast"):
        default["disk_format"] = image_pb2.DISK_FORMAT_QCOW2
    return image_pb2.ExportImageRequest(image_id=image_id, **(default | fields))


def with_buckets(folder: Path, **buckets: str) -> Path:
    """A configuration with buckets that every project may use, in folders of their names."""
    config = folder / "imsd.toml"
    sections = []
    for name, more in buckets.items():
        (folder / name).mkdir()
        common = f'driver = "localfs"\npath = "{folder / name}"\nprojects = ["*"]'
        sections.append(f"[buckets.{name}]\n{common}\n{more}\n")
    config.write_text("".join(sections))
    return config


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    """With the bucket `main`."""
    return start_daemon(config=with_buckets(tmp_path, main=""))


async def exported(stubs: Stubs, wanted: image_pb2.ExportImageRequest) -> job_pb2.Job:
    job = await wire.ended(stubs, await stubs.images.ExportImage(wanted))
    assert job.state == job_pb2.JOB_STATE_SUCCESS, job
    return job


async def test_table_5_5_images_of_1_tb_cannot_be_exported_and_those_of_128_gb_only_fast(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    assert await limit(stubs, "max_export_bytes") == 128 * GIB
    assert await limit(stubs, "max_fast_export_bytes") == TIB
    image = await owned_image(stubs)
    too_large = Refusal("EXPORT_TOO_LARGE", "IMG.0160")
    for size, is_fast in ((128 * GIB + 1, False), (TIB, True), (TIB, False)):
        set_column(daemon, image.id, "data_size", size)
        refused = await refusal(stubs.images.ExportImage(request(image.id, is_fast=is_fast)))
        assert refused == too_large


async def test_table_5_5_an_export_above_a_limit_that_was_changed_is_refused(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """The same limits, on real bytes."""
    daemon = start_daemon(
        config=with_buckets(tmp_path, main=""),
        limits__max_export_bytes="1MiB",
        limits__max_fast_export_bytes="2MiB",
    )
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        images = [await owned_image(stubs, random_disk(size * MIB // 2)) for size in (2, 3, 4)]
        await exported(stubs, request(images[0].id, target="main:small"))
        assert (await refusal(stubs.images.ExportImage(request(images[1].id)))).reason == "EXPORT_TOO_LARGE"
        await exported(stubs, request(images[1].id, target="main:large", is_fast=True))
        refused = await refusal(stubs.images.ExportImage(request(images[2].id, is_fast=True)))
        assert refused.reason == "EXPORT_TOO_LARGE"


async def test_table_5_5_every_format_of_exported_image_files_is_written(
    stubs: Stubs, tmp_path: Path
) -> None:
    image = await owned_image(stubs, random_disk(MIB))
    bucket = tmp_path / "main"
    for name in ("VMDK", "VHD", "QCOW2", "ZVHD"):
        wanted = request(image.id, target=f"main:disk.{name}", disk_format=f"DISK_FORMAT_{name}")
        await exported(stubs, wanted)
        assert (bucket / f"disk.{name}").stat().st_size
    await exported(stubs, request(image.id, target="main:disk.zvhd2", is_fast=True))
    qemu_img("compare", "-f", "qcow2", "-F", "vmdk", bucket / "disk.QCOW2", bucket / "disk.VMDK")
    for other in ("RAW", "VHDX", "VDI", "QED", "QCOW", "ZVHD2"):
        wanted = request(image.id, disk_format=f"DISK_FORMAT_{other}")
        refused = await refusal(stubs.images.ExportImage(wanted))
        assert refused == Refusal("FORMAT_UNSUPPORTED", "IMG.0072")


async def test_table_5_5_only_a_normal_image_is_exported(daemon: DaemonProcess, stubs: Stubs) -> None:
    image = await owned_image(stubs)
    for status in ("queued", "saving", "deactivated"):
        set_column(daemon, image.id, "status", status)
        refused = await refusal(stubs.images.ExportImage(request(image.id)))
        assert refused == Refusal("IMAGE_NOT_ACTIVE", "IMG.0046")
    set_column(daemon, image.id, "status", "active")
    await exported(stubs, request(image.id))


async def test_table_5_5_an_image_can_only_be_exported_to_a_standard_bucket_in_the_same_region(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon(
        config=with_buckets(tmp_path, far='region = "elsewhere"', cold='storage_class = "cold"', near="")
    )
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await owned_image(stubs)
        for name in ("far", "cold"):
            refused = await refusal(stubs.images.ExportImage(request(image.id, target=f"{name}:disk")))
            assert refused == Refusal("BUCKET_UNSUITED", "IMG.0058")
            assert list((tmp_path / name).rglob("disk")) == []
        await exported(stubs, request(image.id, target="near:disk"))
        refused = await refusal(stubs.images.ExportImage(request(image.id, target="near:disk")))
        assert refused == Refusal("OBJECT_EXISTS", "IMG.0070")


async def test_table_5_2_and_5_5_iso_images_cannot_be_exported(stubs: Stubs) -> None:
    image = await owned_image(stubs, disc(bootable=True))
    refused = await refusal(stubs.images.ExportImage(request(image.id)))
    assert refused == Refusal("IMAGE_KIND_UNSUITED", "IMG.0167")


async def test_table_5_5_private_images_created_from_an_ubuntu_public_image_cannot_be_exported(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    """A copy of a public image remembers from what it came, and so do its copies."""
    public = await owned_image(stubs, random_disk(MIB), os_version="Ubuntu 22.04 server 64bit")
    await stubs.images.SetImageVisibility(
        image_pb2.SetImageVisibilityRequest(
            project_id=OWNER, image_id=public.id, visibility=image_pb2.VISIBILITY_PUBLIC
        )
    )
    image_id = public.id
    for _ in range(2):
        copy = image_pb2.CopyImageRequest(project_id="tenant", image_id=image_id, name="mine")
        job = await wire.ended(stubs, await stubs.images.CopyImage(copy))
        assert job.state == job_pb2.JOB_STATE_SUCCESS
        image_id = job.image_ids[0]
        wanted = request(image_id)
        wanted.project_id = "tenant"
        refused = await refusal(stubs.images.ExportImage(wanted))
        assert refused == Refusal("EXPORT_REFUSED", "IMG.0079")


async def test_table_5_6_a_published_private_image_cannot_be_deleted(stubs: Stubs) -> None:
    image = await owned_image(stubs, DISK)
    publish = image_pb2.PublishImageRequest(project_id=OWNER, image_id=image.id)
    await stubs.images.PublishImage(publish)
    delete = image_pb2.DeleteImageRequest(project_id=OWNER, image_id=image.id)
    assert await refusal(stubs.images.DeleteImage(delete)) == Refusal("IMAGE_PUBLISHED", "IMG.0093")
    publish.is_withdrawn = True
    await stubs.images.PublishImage(publish)
    await stubs.images.DeleteImage(delete)
