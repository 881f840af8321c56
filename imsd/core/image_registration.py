"""Filling an image that was prepared (contract §3.5): the job, and what becomes of the image if it fails.

What the image was called and declared to be is the image's own: it is there before the job, and stays when
the job fails or is cancelled. Then the image is QUEUED again, and waits for another file, for an update of
what was declared wrong, or for its deletion.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition
from imsd.metadata import images as image_rows
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    JobKind,
    JobRecord,
    JobState,
    UploadRecord,
)

from .image_changes import ImageRef, image_at, look_for_job
from .image_file import ImageFile, spec_of
from .job_run import JobRun
from .lineage import origin_of
from .runtime import Runtime

REGISTERED = "is_registered"


async def waiting_image(c: AsyncConnection, ref: ImageRef) -> ImageRecord:
    """An image of the project that was prepared and that no job fills.

    Raises InvalidRequest, NotFound, PermissionDenied (NOT_OWNER), Conflict, FailedPrecondition.
    """
    image = await image_at(c, ref)
    require_waiting(image, has_job=await look_for_job(c, image))
    return image


def require_waiting(image: ImageRecord, *, has_job: bool) -> None:
    """Raises FailedPrecondition unless the image waits for a file. ``has_job``: see `look_for_job`."""
    said, hint = "", "make one without bytes with `imsctl image create-queued`, or import the file"
    if not image.is_prepared:
        said = "was not made without bytes"
    elif has_job or image.status is ImageStatus.SAVING:
        said, hint = "is being filled already", f"watch its job {image.job_id}, or cancel it first"
    elif image.status is not ImageStatus.QUEUED:
        said = f"is {image.status}: it has its bytes"
    if said:
        raise FailedPrecondition(f"image {image.name!r} {said}", field="image_id", hint=hint)


def require_plain(upload: UploadRecord) -> None:
    """What is encrypted is so for the image that its upload will be. Raises FailedPrecondition."""
    if upload.image_id:
        raise FailedPrecondition(
            "an encrypted upload becomes an image of its own, and fills no other",
            field="upload_id",
            hint="make an image of it with CreateImage, or copy the image under a key when it is filled",
        )


def filling_job(runtime: Runtime, image: ImageRecord, file: ImageFile, upload: UploadRecord) -> JobRecord:
    """The job that fills ``image``."""
    # Every image has a kind. An ISO is one, whatever it was prepared as, unless that was a data disk.
    kind = "" if image.kind is ImageKind.SYSTEM_DISK else image.kind.value
    return JobRecord(
        id=upload.job_id or runtime.new_id(),
        project_id=image.project_id,
        kind=JobKind.CREATE_IMAGE,
        state=JobState.INIT,
        spec=spec_of(image, file, upload, kind=kind) | {REGISTERED: True},
        image_id=image.id,
        upload_id=upload.id,
        created_at=runtime.clock(),
    )


def filled_by(job: JobRecord, file: ImageFile, upload: UploadRecord) -> dict[str, object]:
    """What an image says while ``job`` fills it."""
    origin_kind, origin = origin_of(file.source, upload.file_name)
    return {"job_id": job.id, "store": upload.store, "origin_kind": origin_kind, "origin": origin}


def is_registered(run: JobRun) -> bool:
    """Whether the job fills an image that was there before."""
    return bool(run.record.spec.get(REGISTERED))


async def wait_again(c: AsyncConnection, run: JobRun) -> None:
    """The image of a job that ended without filling it is as it was before the job."""
    values = {
        "status": ImageStatus.QUEUED,
        "origin_kind": "",
        "origin": "",
        "updated_at": run.runtime.clock(),
    }
    unfilled = [ImageStatus.QUEUED, ImageStatus.SAVING]
    await image_rows.update_image(c, run.record.image_id, values, statuses=unfilled)


def refuse_package(run: JobRun) -> None:
    """Raises FailedPrecondition (IMAGE_KIND_UNSUITED) if the job fills one image: a package may hold more."""
    if is_registered(run):
        raise FailedPrecondition(
            "a package of disks cannot fill an image",
            reason="IMAGE_KIND_UNSUITED",
            hint="import the package, which makes an image of each disk",
        )
