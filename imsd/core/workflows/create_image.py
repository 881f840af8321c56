"""Create an image from a committed upload, or from a file that is fetched into one first.

The story: the upload's bytes are opened as a disk (or are chunks already), checked, stored chunk by
chunk, listed in a manifest; then one transaction makes the manifest live, the image ACTIVE, the upload
gone and the job SUCCESS. Until that transaction nothing of it can be seen but a QUEUED image; a job that
runs again after a crash finds the chunks it stored by their digests and goes on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, FailedPrecondition, ImsError, InvalidRequest
from imsd.core.fetching import Fetching
from imsd.core.guest_inspection import Declared, System, decide, inspect_blocks
from imsd.core.images import min_disk
from imsd.core.job_run import JobRun, Workflow
from imsd.core.limits import MAX_OS_VERSION
from imsd.core.opened_upload import OpenedUpload, StoredDisk, open_upload
from imsd.core.sources import Source
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import Uploads
from imsd.formats.source import ByteSource
from imsd.guest.inspector import GuestInspector
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import ImageRecord, ImageStatus, JobState, UploadRecord, UploadState

# Read for the SHA-256 of an uploaded file, in bytes.
HASH_WINDOW = 4 << 20

# Faults of the bytes themselves: the upload will never become an image, so it goes too. After any other
# error, a fault of the request for one, a better request can still make an image of it.
HOPELESS = frozenset({"FORMAT_UNSUPPORTED", "FORMAT_AMBIGUOUS", "DIGEST_MISMATCH"})


@dataclass(frozen=True, slots=True)
class Subject:
    """What this job works on."""

    image: ImageRecord
    upload: UploadRecord


class CreateImage(Workflow):
    def __init__(
        self, uploads: Uploads, sweeper: Sweeper, fetching: Fetching, inspector: GuestInspector
    ) -> None:
        self._uploads = uploads
        self._sweeper = sweeper
        self._fetching = fetching
        self._inspector = inspector

    async def run(self, run: JobRun) -> None:
        await self._fetching.fetch(run)
        subject = await self._begin(run)
        run.enter("inspect", 0, (0.0, 1.0))
        async with open_upload(run, subject.upload, str(run.record.spec["disk_format"])) as opened:
            min_disk(int(run.record.spec["min_disk_gb"]), opened.virtual_size_bytes)
            await _check_sha256(run, subject.upload, opened)
            disk = await opened.store(run)
        system = await self._look_inside(run, subject, disk)
        run.enter("commit", 0, (99.0, 100.0))
        await self._publish(run, subject, disk, system)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        await chunk_index.release_holder(c, run.holder)
        await image_rows.delete_image_row(c, run.record.image_id)
        # Nobody else can use what this job fetched.
        if error is None or is_hopeless(error) or Source.of_job(run.record.spec):
            await chunk_index.release_holder(c, Holder(HolderKind.UPLOAD, run.record.upload_id))
            await upload_rows.delete_upload_row(c, run.record.upload_id)
        else:
            await upload_rows.detach_upload(c, run.record.upload_id, run.record.id)

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Free the bytes of an upload that is gone, and every pack and manifest nothing holds.

        Whoever cancels is told that nothing is left; after any other end the sweep comes soon enough.
        """
        async with run.runtime.database.reading() as c:
            upload = await upload_rows.get_upload(c, run.record.project_id, run.record.upload_id)
        store_name = str(run.record.spec["store"])
        if upload is None:
            await self._uploads.discard_bytes(store_name, run.record.upload_id)
        if state is JobState.CANCELLING:
            await self._sweeper.free(store_name)
        else:
            self._sweeper.wake(store_name)

    async def _begin(self, run: JobRun) -> Subject:
        """QUEUED becomes SAVING; a job that runs again finds it so already."""
        runtime, record = run.runtime, run.record
        async with runtime.database.transaction() as c:
            await run.require_fence(c)
            image = await image_rows.update_image(
                c,
                record.image_id,
                {"status": ImageStatus.SAVING, "updated_at": runtime.clock()},
                statuses=[ImageStatus.QUEUED, ImageStatus.SAVING],
            )
            upload = await upload_rows.get_upload(c, record.project_id, record.upload_id)
            if image is None or upload is None or upload.state is not UploadState.COMMITTED:
                raise FailedPrecondition("the upload or the image of this job is gone")
            # The packs that a direct upload filled are listed by this job's manifest.
            await chunk_index.copy_references(c, Holder(HolderKind.UPLOAD, upload.id), run.holder)
        return Subject(image, upload)

    async def _look_inside(self, run: JobRun, subject: Subject, disk: StoredDisk) -> System:
        """What system is on the disk that was stored. It never fails the job."""
        run.enter("guest", 0, (98.0, 99.0))
        store, pool = run.runtime.stores.get(subject.image.store), run.runtime.pool
        async with open_chunk_reader(store, disk.manifest_id, pool) as reader:
            report = await inspect_blocks(pool, self._inspector, reader)
        return decide(Declared.of_image(subject.image), report)

    async def _publish(self, run: JobRun, subject: Subject, disk: StoredDisk, system: System) -> None:
        runtime, image, upload = run.runtime, subject.image, subject.upload
        now = runtime.clock()
        async with runtime.database.transaction() as c:
            await run.require_fence(c)
            await chunk_index.publish_manifest(
                c, manifest_id=disk.manifest_id, writer=run.holder, image_id=image.id, packs=disk.packs
            )
            published = await image_rows.update_image(
                c,
                image.id,
                {
                    "status": ImageStatus.ACTIVE,
                    "disk_format": disk.format_name,
                    "virtual_size": disk.virtual_size_bytes,
                    "data_size": disk.data_size,
                    "stored_size": disk.stored_size,
                    "new_size": disk.new_size,
                    "digest": disk.digest,
                    "findings": [
                        {"code": found.code, "message": found.message}
                        for found in (*disk.findings, *system.findings)
                    ],
                    "os_version": system.os_version[:MAX_OS_VERSION],
                    "architecture": system.architecture,
                    "boot_mode": system.boot_mode,
                    "guest": system.guest,
                    "min_disk_gb": min_disk(image.min_disk_gb, disk.virtual_size_bytes),
                    "manifest_id": disk.manifest_id,
                    "active_at": now,
                    "updated_at": now,
                },
                statuses=[ImageStatus.SAVING],
            )
            if published is None:
                raise Conflict("the image of this job is gone")
            await chunk_index.release_holder(c, run.holder)
            await chunk_index.release_holder(c, Holder(HolderKind.UPLOAD, upload.id))
            await upload_rows.delete_upload_row(c, upload.id)
            await run.succeed(c, {"image_id": image.id})


def is_hopeless(error: ImsError) -> bool:
    """Whether no request can ever make an image of the upload."""
    return error.reason in HOPELESS or error.reason.startswith("IMAGE_")


async def _check_sha256(run: JobRun, upload: UploadRecord, opened: OpenedUpload) -> None:
    """Compare the uploaded file with the SHA-256 its sender gave. Raises InvalidRequest (DIGEST_MISMATCH)."""
    if not upload.expected_sha256:
        return
    source, done = opened.file, 0
    run.enter("checksum", source.size_bytes, (1.0, 20.0))
    digest = hashlib.sha256()
    while done < source.size_bytes:
        length = min(HASH_WINDOW, source.size_bytes - done)
        await run.runtime.pool.run(_hash, digest, source, done, length)
        done += length
        run.advance(done)
    if digest.hexdigest() != upload.expected_sha256:
        raise InvalidRequest(
            f"the SHA-256 of the file is {digest.hexdigest()}, not {upload.expected_sha256}",
            reason="DIGEST_MISMATCH",
            field="expected_sha256",
            hint="the file is not the one the checksum was made of: fetch it again",
        )


def _hash(digest: hashlib._Hash, source: ByteSource, offset: int, length: int) -> None:
    # Read first: a source that lacks bytes raises here, and the call is repeated whole.
    content = source.read(offset, length)
    digest.update(content)
