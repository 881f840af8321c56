"""Making images of the disks of a package: a sub-job and an image for each, all of them or none.

The job of the package runs its sub-jobs itself, one after the other, so that none of them needs a place of
its own among the jobs that run. Nothing is published before the last disk is stored: then one transaction
makes all images ACTIVE and all jobs SUCCESS. A job that runs again takes its sub-jobs up where they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.staged_source import StagedSource
from imsd.contract import FailedPrecondition, ImsError, InvalidRequest
from imsd.formats.detect import PACKAGES, detect, find_wrapper, require_declared
from imsd.formats.ova import Package, PackagedDisk, describe, member_source
from imsd.formats.tar_members import TarWalk
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import ImageRecord, ImageStatus, JobKind, JobRecord, JobState, UploadRecord

from . import checks
from .feeds import Feed
from .filling import Filling, fill
from .guest_inspection import UEFI
from .image_making import ImageMaker, MadeImage, forget_upload
from .job_run import JobRun, SubRun
from .jobs import number_of
from .limits import MAX_FILE_NAME, MAX_NAME, MAX_OS_VERSION
from .source_feed import SourceFeed
from .staged_file import check_sha256, check_staged, hash_file, staged_file
from .unpack_feed import WrappedFile
from .unpacking import Unpacked, Unpacking, committed_upload, unpacked_upload_id

# Of the percent of the package's job.
MANIFEST_SPAN = (5.0, 20.0)
DISKS_SPAN = (20.0, 98.0)
# Of the percent of a sub-job that takes its disk out of the package.
MEMBER_PERCENT = 60.0

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
    file: StagedSource
    package: Package


async def find_package(run: JobRun, upload: UploadRecord) -> StagedSource | None:
    """The file of a committed upload if it is a package.

    Raises ImageRefused (FORMAT_*), DataLoss, Unavailable.
    """
    if upload.is_direct:
        return None
    file = await staged_file(run, upload)
    found = await run.runtime.pool.run(detect, file)
    if found not in PACKAGES:
        return None
    require_declared(str(run.record.spec["disk_format"]), found)
    return file


class PackageImport:
    def __init__(self, unpacking: Unpacking, maker: ImageMaker) -> None:
        self._unpacking = unpacking
        self._maker = maker

    @asynccontextmanager
    async def making(
        self, run: JobRun, upload: UploadRecord, file: StagedSource
    ) -> AsyncIterator[Sequence[PackagedImage]]:
        """All disks, stored: the block publishes them. Raises what making an image of one of them raises."""
        opened = OpenedPackage(upload, file, await _described(run, file))
        sub_jobs = await self._sub_jobs(run, opened)
        run.enter("unpack", sum(disk.member.size_bytes for disk in opened.package.disks), DISKS_SPAN)
        images: list[PackagedImage] = []
        done = 0
        with ExitStack() as shown:
            for record, disk in zip(sub_jobs, opened.package.disks, strict=True):
                sub_run = SubRun(run, await _claim(run, record), done)
                shown.callback(sub_run.close)
                images.append(PackagedImage(sub_run, await self._make(sub_run, opened, disk)))
                done += disk.member.size_bytes
                run.advance(done)
            yield images

    async def _sub_jobs(self, run: JobRun, opened: OpenedPackage) -> Sequence[JobRecord]:
        """Those of an earlier run or, when the package has proved to be whole, new ones."""
        async with run.runtime.database.reading() as c:
            found = await job_rows.sub_jobs(c, [run.record.id])
        if found:
            return sorted(found, key=number_of)
        await check_staged(run, opened.file, opened.upload)
        await check_sha256(run, opened.file, opened.upload.expected_sha256)
        await _check_manifest(run, opened)
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)
            return await _insert_sub_jobs(c, run, opened.package)

    async def _make(self, run: SubRun, opened: OpenedPackage, disk: PackagedDisk) -> MadeImage:
        try:
            return await self._stored(run, opened, disk)
        except Exception as error:
            shown = error if isinstance(error, ImsError) else ImsError("an internal error ended the job")
            async with run.runtime.database.transaction() as c:
                await run.fail(c, shown)
            shown.message = f"disk {number_of(run.record)}, {disk.member.name!r}: {shown.message}"
            raise

    async def _stored(self, run: SubRun, opened: OpenedPackage, disk: PackagedDisk) -> MadeImage:
        runtime, file = run.runtime, member_source(opened.file, disk.member)
        name = "".join(filter(str.isprintable, disk.member.name))[-MAX_FILE_NAME:]
        wrapper: str | None = disk.wrapper
        if not wrapper:
            wrapper = await runtime.pool.run(find_wrapper, file, str(run.record.spec["disk_format"]))
        upload = await self._unpacking.own_upload(run, name)
        mark = opened.upload.digest
        feed: Callable[[], Feed] = partial(SourceFeed, runtime.pool, file, name, mark)
        if wrapper:
            feed = partial(self._unpacking.feed, runtime, WrappedFile(file, wrapper, name, mark))
        await fill(run, Filling(upload.id, feed, "unpack", (0.0, MEMBER_PERCENT)))
        run.begin_at(MEMBER_PERCENT)
        return await self._maker.make(run, Unpacked(await committed_upload(run, upload.id), wrapper or ""))


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


async def _described(run: JobRun, file: StagedSource) -> Package:
    walk, members = TarWalk(file), []
    while member := await run.runtime.pool.run(walk.next):
        members.append(member)
    return await run.runtime.pool.run(describe, file, members)


async def _check_manifest(run: JobRun, opened: OpenedPackage) -> None:
    """Raises InvalidRequest (DIGEST_MISMATCH)."""
    checksums = opened.package.checksums
    run.enter("checksum", sum(member.size_bytes for member, _ in checksums), MANIFEST_SPAN)
    done = 0
    for member, checksum in checksums:
        digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
        actual = await hash_file(run, member_source(opened.file, member), digest, done)
        done += member.size_bytes
        if actual != checksum.digest:
            raise InvalidRequest(
                f"{member.name!r} has the {checksum.algorithm} {actual}, "
                f"the manifest of the package says {checksum.digest}",
                reason="DIGEST_MISMATCH",
                hint="the package was damaged or changed: fetch it again",
            )


async def _insert_sub_jobs(c: AsyncConnection, run: JobRun, package: Package) -> Sequence[JobRecord]:
    first = await _first_image(c, run, package)
    described_os = checks.text("os_version", package.descriptor.system, MAX_OS_VERSION)
    made = []
    for number in range(1, len(package.disks) + 1):
        job_id = run.runtime.new_id()
        image_id = first.id if number == 1 else run.runtime.new_id()
        record = JobRecord(
            id=job_id,
            project_id=run.record.project_id,
            kind=JobKind.CREATE_IMAGE,
            state=JobState.INIT,
            # The smallest disk that was asked for is that of the system.
            spec={**run.record.spec, "source": None, "disk": number, "described_os": described_os}
            | ({"min_disk_gb": 0} if number > 1 else {}),
            image_id=image_id,
            upload_id=unpacked_upload_id(job_id),
            parent_job_id=run.record.id,
            created_at=run.runtime.clock(),
        )
        await job_rows.insert_job(c, record)
        if number > 1:
            name = _name_of(first.name, number)
            image = replace(first, id=image_id, name=name, job_id=job_id, min_disk_gb=0)
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
