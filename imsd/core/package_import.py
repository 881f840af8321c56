"""Making images of the disks of a package: a sub-job and an image for each, all of them or none.

The job of the package runs its sub-jobs itself, one after the other, so that none of them needs a place of
its own among the jobs that run. Nothing is published before the last disk is stored: then one transaction
makes all images ACTIVE and all jobs SUCCESS. A job that runs again takes its sub-jobs up where they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import FailedPrecondition, ImsError
from imsd.formats.detect import find_wrapper
from imsd.formats.ova import Package, PackagedDisk, describe, member_source, require_digest
from imsd.formats.ovf import Checksum
from imsd.formats.source import ByteSource
from imsd.formats.tar_members import TarMember, TarWalk
from imsd.guest.report import clean
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import DataKeyRecord
from imsd.metadata.records import ImageRecord, ImageStatus, JobKind, JobRecord, JobState, UploadRecord

from .file_digest import PartDigest
from .guest_inspection import UEFI
from .image_making import ImageMaker, MadeImage, forget_upload
from .job_run import JobRun, SubRun
from .jobs import number_of
from .limits import MAX_FILE_NAME, MAX_NAME, MAX_OS_VERSION
from .quota_rules import IMAGES
from .quotas import reserve
from .staged_file import FoundFile, check_file
from .unpacking import Unpacking, unpacked_upload_id

# Of the percent of the package's job that makes its disks.
DISKS_SPAN = (20.0, 98.0)

# What VMware writes for UEFI; all else is the firmware of a PC, or says nothing.
EFI = "efi"


@dataclass(frozen=True, slots=True)
class PackagedImage:
    """An image that is to be published, and the job that made it."""

    run: SubRun
    made: MadeImage


@dataclass(frozen=True, slots=True)
class OpenedPackage:
    """``upload``: of the package, whose bytes are ``file``."""

    upload: UploadRecord
    file: ByteSource
    package: Package


class PackageImport:
    def __init__(self, unpacking: Unpacking, maker: ImageMaker) -> None:
        self._unpacking = unpacking
        self._maker = maker

    @asynccontextmanager
    async def making(self, run: JobRun, found: FoundFile) -> AsyncIterator[Sequence[PackagedImage]]:
        """All disks of a package, stored: the block publishes them.

        Raises what making an image of one of them raises.
        """
        opened = await _open(run, found)
        sub_jobs = await _sub_jobs(run, opened)
        run.enter("unpack", sum(disk.member.size_bytes for disk in opened.package.disks), DISKS_SPAN)
        images: list[PackagedImage] = []
        done = 0
        with ExitStack() as shown:
            for record, disk in zip(sub_jobs, opened.package.disks, strict=True):
                size = disk.member.size_bytes
                sub_run = SubRun(run, await _claim(run, record), done, size)
                shown.callback(sub_run.close)
                images.append(PackagedImage(sub_run, await self._make(sub_run, opened, disk)))
                done += size
                run.advance(done)
            yield images

    async def _make(self, run: SubRun, opened: OpenedPackage, disk: PackagedDisk) -> MadeImage:
        try:
            found = await _member(run, opened, disk)
            return await self._maker.make(run, await self._unpacking.unpack(run, found))
        except Exception as error:
            shown = error if isinstance(error, ImsError) else ImsError("an internal error ended the job")
            async with run.runtime.database.transaction() as c:
                await run.fail(c, shown)
            shown.message = f"disk {number_of(run.record)}, {disk.member.name!r}: {shown.message}"
            raise


async def undo_sub_jobs(c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
    """Take back what the rows say of the sub-jobs of a job. ``error`` is None when it was cancelled."""
    for part in await job_rows.sub_jobs(c, [run.record.id]):
        await chunk_index.release_holder(c, Holder(HolderKind.JOB, part.id))
        await image_rows.delete_image_row(c, part.image_id)
        await forget_upload(c, part.upload_id)
        await job_rows.move_job(
            c, part.id, [JobState.INIT, JobState.RUNNING], JobState.CANCELLING, fence=None, values={}
        )
        if error is not None:
            await _end_cancelled(c, run, part.id)


async def end_cancelled_sub_jobs(run: JobRun) -> None:
    """Nothing is left of the sub-jobs of a cancelled job."""
    async with run.runtime.database.transaction() as c:
        for part in await job_rows.sub_jobs(c, [run.record.id]):
            await _end_cancelled(c, run, part.id)


async def _end_cancelled(c: AsyncConnection, run: JobRun, job_id: str) -> None:
    values = {"phase": "done", "finished_at": run.runtime.clock()}
    await job_rows.move_job(c, job_id, [JobState.CANCELLING], JobState.CANCELLED, fence=None, values=values)


async def _open(run: JobRun, found: FoundFile) -> OpenedPackage:
    """Raises ImageRefused (IMAGE_*, FORMAT_UNSUPPORTED), DataLoss, Unavailable."""
    assert found.file is not None, "a package does not become chunks while it comes"
    walk, members = TarWalk(found.file), []
    while member := await run.runtime.pool.run(walk.next):
        members.append(member)
    return OpenedPackage(found.upload, found.file, await run.runtime.pool.run(describe, found.file, members))


async def _sub_jobs(run: JobRun, opened: OpenedPackage) -> Sequence[JobRecord]:
    """Those of an earlier run or, when the package has proved to be whole, new ones."""
    async with run.runtime.database.reading() as c:
        found = await job_rows.sub_jobs(c, [run.record.id])
    if found:
        return sorted(found, key=number_of)
    await _prove(run, opened)
    data_keys = await _data_keys(run, opened)
    async with run.runtime.database.transaction() as c:
        await run.require_fence(c)
        for data_key in data_keys:
            await key_rows.insert_data_key(c, data_key)
        return await _insert_sub_jobs(c, run, opened.package, [each.image_id for each in data_keys])


async def _data_keys(run: JobRun, opened: OpenedPackage) -> Sequence[DataKeyRecord]:
    """Of an encrypted package, one for each disk but the first, whose own encrypts the package, too."""
    if not opened.upload.image_id:
        return []
    runtime = run.runtime
    async with runtime.database.reading() as c:
        first = await key_rows.get_data_key(c, opened.upload.image_id)
        key = await key_rows.get_key(c, first.key_id) if first else None
    if key is None:
        raise FailedPrecondition("the key of this job is gone", reason="KEY_NOT_FOUND")
    return [await runtime.data_keys.make(key, runtime.new_id()) for _ in opened.package.disks[1:]]


async def _member(run: JobRun, opened: OpenedPackage, disk: PackagedDisk) -> FoundFile:
    """The file of a disk. Raises ImageRefused (FORMAT_AMBIGUOUS), DataLoss, Unavailable."""
    file = member_source(opened.file, disk.member)
    name = "".join(filter(str.isprintable, disk.member.name))[-MAX_FILE_NAME:]
    wrapper: str | None = disk.wrapper
    if not wrapper:
        wrapper = await run.runtime.pool.run(find_wrapper, file, str(run.record.spec["disk_format"]))
    return FoundFile(opened.upload, name, file, wrapper or "", is_proved=True)


async def _prove(run: JobRun, opened: OpenedPackage) -> None:
    """The package is what arrived, and what its sender and its manifest say.

    Raises DataLoss, InvalidRequest (DIGEST_MISMATCH).
    """
    parts = [_part(member, checksum) for member, checksum in opened.package.checksums]
    await check_file(run, opened.file, opened.upload, parts)
    for (member, checksum), part in zip(opened.package.checksums, parts, strict=True):
        require_digest(member, checksum, part.hasher.hexdigest())


def _part(member: TarMember, checksum: Checksum) -> PartDigest:
    hasher = hashlib.new(checksum.algorithm, usedforsecurity=False)
    return PartDigest(member.offset, member.offset + member.size_bytes, hasher)


async def _insert_sub_jobs(
    c: AsyncConnection, run: JobRun, package: Package, reserved_ids: Sequence[str]
) -> Sequence[JobRecord]:
    """``reserved_ids``: of the images but the first, if they are encrypted."""
    first = await _first_image(c, run, package)
    described_os = clean(package.descriptor.system, MAX_OS_VERSION)
    await reserve(c, run.runtime, run.record.project_id, IMAGES, len(package.disks) - 1)
    made = []
    for number in range(1, len(package.disks) + 1):
        job_id = run.runtime.new_id()
        other_id = reserved_ids[number - 2] if reserved_ids else run.runtime.new_id()
        image_id = first.id if number == 1 else other_id
        record = JobRecord(
            id=job_id,
            project_id=run.record.project_id,
            kind=JobKind.CREATE_IMAGE,
            state=JobState.INIT,
            spec={**run.record.spec, "source": None, "disk": number, "described_os": described_os},
            image_id=image_id,
            upload_id=unpacked_upload_id(job_id),
            parent_job_id=run.record.id,
            created_at=run.runtime.clock(),
        )
        await job_rows.insert_job(c, record)
        if number > 1:
            name = _name_of(first.name, number)
            # The smallest disk that was asked for is that of the system.
            image = replace(first, id=image_id, name=name, job_id=job_id, min_disk_gb=0, family="")
            await image_rows.insert_image(c, image)
        made.append(record)
    return made


async def _first_image(c: AsyncConnection, run: JobRun, package: Package) -> ImageRecord:
    """The image of the request; what it does not say, the descriptor may."""
    image = await image_rows.get_image(c, run.record.project_id, run.record.image_id)
    if image is None:
        raise FailedPrecondition("the image of this job is gone")
    firmware = package.descriptor.firmware.lower()
    values = {"boot_mode": image.boot_mode or (UEFI if firmware == EFI else "")}
    updated = await image_rows.update_image(c, image.id, values, statuses=[ImageStatus.QUEUED])
    if updated is None:
        raise FailedPrecondition("the image of this job is gone")
    return updated


def _name_of(name: str, number: int) -> str:
    suffix = f"-disk{number}"
    return name[: MAX_NAME - len(suffix)] + suffix


async def _claim(run: JobRun, record: JobRecord) -> JobRecord:
    """Make a sub-job this run's. Raises the error of one that failed in an earlier run."""
    runtime, now = run.runtime, run.runtime.clock()
    async with runtime.database.transaction() as c:
        await run.require_fence(c)
        claimed = await job_rows.claim_job(
            c,
            record.id,
            runtime.instance_id,
            run.record.lease_until or now,
            now,
            ignore_leases=True,  # who has the parent has the sub-jobs
        )
    if claimed is None:
        message = f"disk {number_of(record)}: {record.error_message or 'its job has ended'}"
        raise ImsError(message, reason=record.error_reason or None, hint=record.error_hint)
    return claimed
