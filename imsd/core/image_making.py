"""Making an image of one committed upload: stored, looked into, published in a transaction of the caller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, FailedPrecondition
from imsd.formats.reader import Finding
from imsd.guest.inspector import GuestInspector
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import ImageRecord, ImageStatus, UploadState

from .guest_inspection import Declared, System, decide, declared_system, inspect_blocks
from .job_run import JobRun
from .keys.encryption import cipher_of_image, require_no_disc
from .kind_rules import check_server_kind, min_disk, proved_kind
from .limits import MAX_OS_VERSION
from .opened_upload import StoredDisk, open_upload
from .staged_file import FoundFile


@dataclass(frozen=True, slots=True)
class MadeImage:
    """A disk that is stored, and what its image will say. ``wrapper``: what its file was compressed with."""

    image: ImageRecord
    disk: StoredDisk
    system: System
    wrapper: str = ""
    is_fast: bool = False


class ImageMaker:
    def __init__(self, inspector: GuestInspector) -> None:
        self._inspector = inspector

    async def make(self, run: JobRun, found: FoundFile) -> MadeImage:
        """Store the disk in a file for the image of the job. Raises `ImsError`."""
        spec = run.record.spec
        image = await _begin(run, found.upload.id)
        # Once: what was begun is not to fail at its end because its key service is away for a moment.
        cipher = await cipher_of_image(run.runtime, image)
        run.enter("inspect", 0, (0.0, 1.0))
        async with open_upload(run, found, str(spec["disk_format"])) as opened:
            require_no_disc(opened.image.format_name, is_encrypted=bool(image.key_id))
            kind = proved_kind(str(spec.get("kind", "")), opened.image.format_name)
            check_server_kind(image.server_kind, kind)
            asked_gb, size = image.min_disk_gb, opened.virtual_size_bytes
            image = replace(image, kind=kind, min_disk_gb=min_disk(kind, asked_gb, size, run.runtime.limits))
            disk = await opened.store(run)
        if found.upload.is_fast:
            return MadeImage(image, disk, declared_system(image), is_fast=True)
        return MadeImage(image, disk, await self.look_inside(run, image, disk, cipher), found.wrapper)

    async def look_inside(
        self, run: JobRun, image: ImageRecord, disk: StoredDisk, cipher: ChunkCipher | None
    ) -> System:
        """What system is on the disk that was stored, by ``cipher``. It never fails the job."""
        run.enter("guest", 0, (98.0, 99.0))
        store, pool = run.runtime.stores.get(image.store), run.runtime.pool
        async with open_chunk_reader(store, disk.manifest_id, pool, cipher=cipher) as reader:
            report = await inspect_blocks(pool, self._inspector, reader)
        return decide(Declared.of_image(image, str(run.record.spec.get("described_os", ""))), report)


async def publish(c: AsyncConnection, run: JobRun, made: MadeImage) -> None:
    """Make the manifest live and the image ACTIVE; the upload goes. Raises Conflict."""
    now, disk, system = run.runtime.clock(), made.disk, made.system
    await run.require_fence(c)
    await chunk_index.publish_manifest(
        c, manifest_id=disk.manifest_id, writer=run.holder, image_id=made.image.id, packs=disk.packs
    )
    values = {
        "status": ImageStatus.ACTIVE,
        "disk_format": disk.format_name,
        "virtual_size": disk.virtual_size_bytes,
        "data_size": disk.data_size,
        "stored_size": disk.stored_size,
        "new_size": disk.new_size,
        "digest": disk.digest,
        "findings": [{"code": found.code, "message": found.message} for found in _findings(made)],
        "kind": made.image.kind,
        "os_version": system.os_version[:MAX_OS_VERSION],
        "os_type": system.identity.os_type,
        "os_bits": system.identity.os_bits,
        "platform": system.identity.platform,
        "license_type": system.license_type,
        "architecture": system.architecture,
        "boot_mode": system.boot_mode,
        "guest": system.guest,
        "min_disk_gb": made.image.min_disk_gb,
        "manifest_id": disk.manifest_id,
        "is_fast_imported": made.is_fast,
        "active_at": now,
        "updated_at": now,
    }
    if await image_rows.update_image(c, made.image.id, values, statuses=[ImageStatus.SAVING]) is None:
        raise Conflict("the image of this job is gone")
    await chunk_index.release_holder(c, run.holder)
    await forget_upload(c, run.record.upload_id)


async def forget_upload(c: AsyncConnection, upload_id: str) -> None:
    """Remove the row of an upload and its holds; whoever calls frees its staged bytes."""
    await chunk_index.release_holder(c, Holder(HolderKind.UPLOAD, upload_id))
    await upload_rows.delete_upload_row(c, upload_id)


async def _begin(run: JobRun, upload_id: str) -> ImageRecord:
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
        upload = await upload_rows.get_upload(c, record.project_id, upload_id)
        if image is None or upload is None or upload.state is not UploadState.COMMITTED:
            raise FailedPrecondition("the upload or the image of this job is gone")
        # The packs that a direct upload filled are listed by this job's manifest.
        await chunk_index.copy_references(c, Holder(HolderKind.UPLOAD, upload_id), run.holder)
    return image


def _findings(made: MadeImage) -> Iterator[Finding]:
    yield from made.disk.findings
    yield from made.system.findings
    if made.wrapper:
        yield Finding("UNPACKED_FROM", f"the file was compressed whole by {made.wrapper}, and was unpacked")
