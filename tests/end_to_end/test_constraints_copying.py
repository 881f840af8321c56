"""Table 5-4, row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from imsd.v1 import image_pb2, job_pb2
from tests.end_to_end import wire
from tests.end_to_end.constraints_world import (
    MIB,
    OWNER,
    Refusal,
    copy_request,
    limit,
    owned_image,
    refusal,
    set_column,
)
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import qemu_img, random_disk
from tests.end_to_end.test_fast_imports_wire import convert
from tests.unit.formats.crafted_iso import disc

GIB = 1 << 30
StartDaemon = Callable[..., DaemonProcess]


async def test_table_5_4_maximum_size_of_an_image(daemon: DaemonProcess, stubs: Stubs) -> None:
    assert await limit(stubs, "max_copy_bytes") == 128 * GIB
    image = await owned_image(stubs)
    set_column(daemon, image.id, "data_size", 128 * GIB + 1)
    refused = await refusal(stubs.images.CopyImage(copy_request(image.id)))
    assert refused == Refusal("COPY_TOO_LARGE", "")
    set_column(daemon, image.id, "data_size", 128 * GIB)
    copied = await wire.ended(stubs, await stubs.images.CopyImage(copy_request(image.id)))
    assert copied.state == job_pb2.JOB_STATE_SUCCESS


async def test_table_5_4_a_large_disk_with_little_on_it_is_copied_and_a_fast_import_cut_anew(
    stubs: Stubs, tmp_path: Path
) -> None:
    """The size of an image is that of its data, for a copy as for an export (CONSTRAINTS.md)."""
    qemu_img("create", "-f", "qcow2", str(tmp_path / "large.qcow2"), "150G")
    convert(tmp_path / "large.qcow2", tmp_path / "large.zvhd2")
    file = (tmp_path / "large.zvhd2").read_bytes()
    upload = await wire.send(stubs, file, project_id=OWNER, is_fast=True)
    made = await wire.ended(
        stubs, await wire.start_image(stubs, upload, is_fast=True, os_version="Debian GNU/Linux 12.0.0 64bit")
    )
    assert made.state == job_pb2.JOB_STATE_SUCCESS, made
    image = await stubs.images.GetImage(
        image_pb2.GetImageRequest(project_id=OWNER, image_id=made.image_ids[0])
    )
    assert (image.virtual_size_bytes, image.is_fast_imported) == (150 * GIB, True)
    job = await wire.ended(stubs, await stubs.images.CopyImage(copy_request(image.id)))
    assert job.state == job_pb2.JOB_STATE_SUCCESS, job
    request = image_pb2.GetImageRequest(project_id=OWNER, image_id=job.image_ids[0])
    copy = await stubs.images.GetImage(request)
    assert (copy.virtual_size_bytes, copy.is_fast_imported) == (150 * GIB, False)
    assert copy.digest == image.digest


async def test_table_5_4_maximum_number_of_concurrent_replication_tasks_per_tenant(
    start_daemon: StartDaemon,
) -> None:
    """Never more than five of a project run, however many are asked for, and all come to their end.

    That five do run at once is held where copies last as long as the test wants:
    `test_five_copies_of_a_project_run_and_others_do_not_wait_for_them`.
    """
    daemon = start_daemon()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        assert await limit(stubs, "max_copy_jobs_per_project") == 5
        image = await owned_image(stubs, random_disk(16 * MIB))
        # Of fast imports, the bytes are cut anew: that takes its time.
        set_column(daemon, image.id, "is_fast_imported", True)
        jobs = [await stubs.images.CopyImage(copy_request(image.id)) for _ in range(12)]
        asked, most = {job.id for job in jobs}, 0
        while True:
            # All at once: between two questions one may end and another begin.
            listed = await stubs.jobs.ListJobs(job_pb2.ListJobsRequest(project_id=OWNER))
            now = [job for job in listed.jobs if job.id in asked]
            most = max(most, [job.state for job in now].count(job_pb2.JOB_STATE_RUNNING))
            if all(job.state in wire.FINAL for job in now):
                break
        assert len(now) == len(jobs)
        assert {job.state for job in now} == {job_pb2.JOB_STATE_SUCCESS}
        assert 1 <= most <= 5


async def test_table_5_4_private_image_status(daemon: DaemonProcess, stubs: Stubs) -> None:
    """Normal."""
    image = await owned_image(stubs)
    for status in ("queued", "saving", "deactivated"):
        set_column(daemon, image.id, "status", status)
        refused = await refusal(stubs.images.CopyImage(copy_request(image.id)))
        assert refused == Refusal("IMAGE_NOT_ACTIVE", "IMG.0046")
    set_column(daemon, image.id, "status", "active")
    assert (await stubs.images.CopyImage(copy_request(image.id))).image_ids


async def test_table_5_4_private_images_created_using_iso_files_do_not_support_replication(
    stubs: Stubs,
) -> None:
    image = await owned_image(stubs, disc(bootable=True))
    refused = await refusal(stubs.images.CopyImage(copy_request(image.id)))
    assert refused.reason == "IMAGE_KIND_UNSUITED"
