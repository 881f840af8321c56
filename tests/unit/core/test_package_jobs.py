"""Packages: an image and a sub-job for each disk, all of them or none, through stops."""

from __future__ import annotations

import bz2
import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.chunks.disk_digest import digest_blocks
from imsd.contract import FailedPrecondition
from imsd.core.jobs import JobView
from imsd.formats.raw import RawBlocks
from imsd.formats.registry import open_writer
from imsd.formats.source import MemorySource
from imsd.guest.report import GuestReport
from imsd.metadata import jobs as job_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageStatus, JobState
from tests.packages import ova
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.formats.disk_files import write_file

DISKS = [random.Random(seed).randbytes(2 * MIB) + bytes(MIB) for seed in range(3)]
DIGESTS = [digest_blocks(RawBlocks(MemorySource(disk))) for disk in DISKS]


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The disks as VMDK, QCOW2 and RAW."""
    folder: Path = tmp_path_factory.mktemp("disks")
    made = []
    for name, disk in zip(("vmdk", "qcow2", "raw"), DISKS, strict=True):
        writer = open_writer(name, RawBlocks(MemorySource(disk)))
        made.append(write_file(writer, folder / name).read_bytes())
    return made


@pytest.fixture
def package(files: list[bytes]) -> bytes:
    """The first and the last disk are stored from where they lie, the one between them is unpacked first."""
    files = [files[0], gzip.compress(files[1], 1), files[2]]
    return ova({f"app-disk{number}.vmdk": file for number, file in enumerate(files, 1)}, firmware="efi")


async def sub_jobs(service: ImportService, view: JobView) -> list[JobView]:
    return [await service.jobs.get(PROJECT, each) for each in view.sub_job_ids]


async def require_images(service: ImportService, view: JobView) -> None:
    """All disks became images, and all jobs succeeded."""
    assert view.record.state is JobState.SUCCESS, view
    images = [await service.image(each) for each in view.image_ids]
    assert [image.digest for image in images] == DIGESTS
    assert [image.name for image in images] == ["disk", "disk-disk2", "disk-disk3"]
    assert {image.status for image in images} == {ImageStatus.ACTIVE}
    parts = await sub_jobs(service, view)
    assert [part.record.state for part in parts] == [JobState.SUCCESS] * 3
    assert [part.record.image_id for part in parts] == list(view.image_ids)
    assert {part.record.parent_job_id for part in parts} == {view.record.id}
    left = await service.left()
    assert "upload" not in left
    assert left["image"] == 3


async def test_every_disk_becomes_an_image_with_one_slot(world: ImportWorld, package: bytes) -> None:
    async with world.serving(max_running_create_jobs=1) as service:
        done = await service.import_file(package, tags={"team": "web"}, description="an appliance")
        await require_images(service, done)
        images = [await service.image(each) for each in done.image_ids]
        assert {(image.description, image.tags["team"]) for image in images} == {("an appliance", "web")}
        assert {(image.os_version, image.boot_mode) for image in images} == {("Debian 12", "uefi")}
        assert [image.disk_format for image in images] == ["vmdk", "qcow2", "raw"]
        assert done.record.bytes_done == done.record.bytes_total > 0


async def test_a_system_is_described_on_one_line_of_printable_characters(
    world: ImportWorld, files: list[bytes]
) -> None:
    package = ova({"disk.vmdk": files[0]}, system="Debian\n 12\u202e")
    async with world.serving() as service:
        done = await service.import_file(package)
        assert (await service.image(done.image_ids[0])).os_version == "Debian 12"


async def test_what_the_request_declares_counts_more_than_the_descriptor(
    world: ImportWorld, package: bytes
) -> None:
    async with world.serving() as service:
        done = await service.import_file(package, os_version="Mine", boot_mode="bios", min_disk_gb=9)
        images = [await service.image(each) for each in done.image_ids]
        assert {(image.os_version, image.boot_mode) for image in images} == {("Mine", "bios")}
        assert [image.min_disk_gb for image in images] == [9, 1, 1]


async def test_what_the_descriptor_says_of_the_system_was_declared_by_nobody(
    world: ImportWorld, package: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(*_: object) -> GuestReport:
        return GuestReport(is_inspected=True, is_verified=True, os_version="Debian GNU/Linux 12.0.0 64bit")

    async with world.serving() as service:
        monkeypatch.setattr("imsd.core.image_making.inspect_blocks", found)
        done = await service.import_file(package)
        await require_images(service, done)
        images = [await service.image(each) for each in done.image_ids]
        assert {image.os_version for image in images} == {"Debian GNU/Linux 12.0.0 64bit"}
        assert "OS_VERSION_OVERRIDDEN" not in [each["code"] for image in images for each in image.findings]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
async def test_a_package_may_be_packed_itself(
    world: ImportWorld, package: bytes, pack: Callable[[bytes], bytes]
) -> None:
    async with world.serving() as service:
        done = await service.import_file(pack(package))
        await require_images(service, done)
        assert len(done.image_ids) == len(DIGESTS)


@pytest.mark.parametrize("compression", ["gzip", ""])
async def test_a_disk_may_be_packed(world: ImportWorld, files: list[bytes], compression: str) -> None:
    packed = {f"disk{number}.vmdk.gz": gzip.compress(file, 1) for number, file in enumerate(files, 1)}
    async with world.serving() as service:
        done = await service.import_file(ova(packed, compression=compression))
        await require_images(service, done)
        image = await service.image(done.image_ids[0])
        assert "UNPACKED_FROM" in [finding["code"] for finding in image.findings]


async def test_a_disk_is_stored_from_where_it_lies_in_the_package(
    world: ImportWorld, files: list[bytes]
) -> None:
    package = ova({f"app-disk{number}.vmdk": file for number, file in enumerate(files, 1)})
    part = 256 << 10
    async with world.serving(upload_part_bytes=part, staging_quota_bytes=len(package) + part) as service:
        await require_images(service, await service.import_file(package))


async def test_the_bytes_of_all_disks_count_for_the_job_of_the_package(
    world: ImportWorld, package: bytes
) -> None:
    async with world.serving() as service:
        job = await service.start(upload_id=await service.send(package))
        views = [view.record async for view in service.jobs.watch(PROJECT, job)]
        unpacked = [record for record in views if record.phase == "unpack"]
        assert [record.percent for record in views] == sorted(record.percent for record in views)
        assert [record.bytes_done for record in unpacked] == sorted(each.bytes_done for each in unpacked)
        assert all(record.bytes_done <= record.bytes_total < len(package) for record in unpacked)


async def test_a_package_with_one_disk_has_one_sub_job(world: ImportWorld, files: list[bytes]) -> None:
    async with world.serving() as service:
        done = await service.import_file(ova({"only.vmdk": files[0]}, algorithm=""))
        assert done.record.state is JobState.SUCCESS, done
        assert (len(done.image_ids), len(done.sub_job_ids)) == (1, 1)
        assert (await service.image(done.image_ids[0])).name == "disk"


@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
async def test_a_manifest_that_is_wrong_refuses_the_package(
    world: ImportWorld, files: list[bytes], algorithm: str
) -> None:
    whole = ova({"only.vmdk": files[2]}, algorithm=algorithm)
    damaged = bytearray(whole)
    damaged[-MIB] ^= 1
    async with world.serving() as service:
        assert (await service.import_file(whole)).record.state is JobState.SUCCESS
        before = await service.left()
        assert failed(await service.import_file(bytes(damaged))) == "DIGEST_MISMATCH"
        assert await service.left() == before


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_one_bad_disk_and_none_becomes_an_image(
    world: ImportWorld, files: list[bytes], number: int
) -> None:
    bad = [*files]
    bad[number] = b"QFI\xfb\0\0\0\x09" + bytes(100_000)
    async with world.serving() as service:
        done = await service.import_file(ova({f"d{at}.vmdk": file for at, file in enumerate(bad)}))
        assert failed(done) == "FORMAT_UNSUPPORTED"
        assert f"disk {number + 1}, 'd{number}.vmdk'" in done.record.error_message
        states = [part.record.state for part in await sub_jobs(service, done)]
        assert states[number] is JobState.FAIL
        assert {state for at, state in enumerate(states) if at != number} == {JobState.CANCELLED}
        assert await service.left() == {}


# A disk of the package and the phase that its job is in; no disk: before there are any.
STEPS = [
    (0, "checksum"),
    (1, "store"),
    (1, "guest"),
    (2, "unpack"),
    (2, "store"),
    (3, "store"),
    (3, "guest"),
]


async def reach(service: ImportService, job: str, step: tuple[int, str]) -> None:
    """Wait until a step is reached or, as they go by quickly, a later one: the last disk is held."""
    number, phase = step
    while service.inspector.asked < (number if phase == "guest" else 3):
        view = await service.jobs.get(PROJECT, job)
        assert not view.is_final, view
        parts = await sub_jobs(service, view)
        if (parts[number - 1] if number and parts else view).record.phase == phase:
            return


@pytest.mark.parametrize("step", STEPS)
async def test_a_package_goes_on_where_it_was(
    world: ImportWorld, package: bytes, step: tuple[int, str]
) -> None:
    async with world.serving(hold_at=3, upload_part_bytes=256 << 10) as service:
        job = await service.start(upload_id=await service.send(package))
        await reach(service, job, step)
    async with world.serving(max_running_create_jobs=1) as service:
        done = await service.end_of(job)
        await require_images(service, done)
        assert done.record.attempt == 2


@pytest.mark.parametrize("step", STEPS)
async def test_a_package_that_is_cancelled_leaves_nothing(
    world: ImportWorld, package: bytes, step: tuple[int, str]
) -> None:
    async with world.serving(hold_at=3, upload_part_bytes=256 << 10) as service:
        job = await service.start(upload_id=await service.send(package))
        await reach(service, job, step)
        await service.jobs.cancel(PROJECT, job)
        done = await service.end_of(job)
        assert done.record.state is JobState.CANCELLED
        assert {part.record.state for part in await sub_jobs(service, done)} <= {JobState.CANCELLED}
        assert await service.left() == {}


async def test_a_cancellation_that_the_daemon_did_not_finish_is_finished(
    world: ImportWorld, package: bytes
) -> None:
    async with world.serving(hold_at=3, upload_part_bytes=256 << 10) as service:
        job = await service.start(upload_id=await service.send(package))
        await reach(service, job, (2, "unpack"))
        await service.dispatcher.stop(0)
        await service.jobs.cancel(PROJECT, job)
    async with world.serving() as service:
        done = await service.end_of(job)
        assert [part.record.state for part in await sub_jobs(service, done)] == [JobState.CANCELLED] * 3
        assert await service.left() == {}


async def test_a_disk_that_failed_before_a_crash_fails_the_package_after_it(
    world: ImportWorld, package: bytes
) -> None:
    async with world.serving(hold_at=2) as service:
        job = await service.start(upload_id=await service.send(package))
        await reach(service, job, (2, "guest"))
        second = (await service.jobs.get(PROJECT, job)).sub_job_ids[1]
        await service.dispatcher.stop(0)
        told = {"error_reason": "IMAGE_TRUNCATED", "error_message": "cut", "error_hint": "copy it"}
        async with service.runtime.database.transaction() as c:
            await job_rows.move_job(c, second, [JobState.RUNNING], JobState.FAIL, fence=None, values=told)
    async with world.serving() as service:
        done = await service.end_of(job)
        assert failed(done) == "IMAGE_TRUNCATED"
        assert (done.record.error_message, done.record.error_hint) == ("disk 2: cut", "copy it")
        states = [part.record.state for part in await sub_jobs(service, done)]
        assert states == [JobState.CANCELLED, JobState.FAIL, JobState.CANCELLED]
        assert await service.left() == {}


async def test_a_defect_while_one_disk_is_made_fails_all(
    world: ImportWorld, package: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a defect")

    async with world.serving() as service:
        monkeypatch.setattr("imsd.core.image_making.inspect_blocks", broken)
        done = await service.import_file(package)
        assert failed(done) == "INTERNAL"
        parts = await sub_jobs(service, done)
        assert [part.record.error_reason for part in parts] == ["INTERNAL", "", ""]
        left = await service.left()  # the upload may be tried again
        assert left.keys() == {"upload", "upload_part", "blobs"}
        assert left["upload"] == 1


async def test_one_disk_alone_is_not_cancelled(world: ImportWorld, package: bytes) -> None:
    async with world.serving() as service:
        job = await service.start(upload_id=await service.send(package))
        await reach(service, job, (1, "store"))
        view = await service.jobs.get(PROJECT, job)
        with pytest.raises(FailedPrecondition) as refused:
            await service.jobs.cancel(PROJECT, view.sub_job_ids[1])
        assert job in refused.value.hint
        await require_images(service, await service.end_of(job))


async def test_sub_jobs_are_watched_like_any_job(world: ImportWorld, package: bytes) -> None:
    async with world.serving() as service:
        job = await service.start(upload_id=await service.send(package))
        await reach(service, job, (1, "store"))
        last = (await service.jobs.get(PROJECT, job)).sub_job_ids[2]
        states = [view.record.state async for view in service.jobs.watch(PROJECT, last)]
        assert (states[0], states[-1]) == (JobState.INIT, JobState.SUCCESS)
        await service.end_of(job)


async def test_the_declared_format_is_of_the_disks(world: ImportWorld, files: list[bytes]) -> None:
    async with world.serving() as service:
        good = await service.import_file(ova({"only.vmdk": files[0]}), disk_format="vmdk")
        assert good.record.state is JobState.SUCCESS, good
        bad = await service.import_file(ova({"only.vmdk": files[0]}), disk_format="vdi")
        assert failed(bad) == "FORMAT_MISMATCH"


async def test_a_package_inside_a_package_is_refused(world: ImportWorld, files: list[bytes]) -> None:
    async with world.serving() as service:
        inner = ova({"only.vmdk": files[0]})
        assert failed(await service.import_file(ova({"inner.vmdk": inner}))) == "FORMAT_UNSUPPORTED"
        assert await service.left() == {}
