"""Jobs and members under the names of the hosted service (its contract, §3.11 and §6.3)."""

from __future__ import annotations

from collections.abc import Mapping

from imsd.v1 import image_pb2 as pb
from imsd.v1 import job_pb2, member_pb2

from . import vendor_values as values

JOB_TYPES: Mapping[int, str] = {
    job_pb2.JOB_KIND_CREATE_IMAGE: "imsImportImageJob",
    job_pb2.JOB_KIND_COPY_IMAGE: "imsCopyImageInRegionJob",
    job_pb2.JOB_KIND_EXPORT_IMAGE: "imsNativeExportImageJob",
    job_pb2.JOB_KIND_ADD_MEMBERS: "imsAddImageMembersJob",
    job_pb2.JOB_KIND_UPDATE_MEMBERS: "imsUpdateImageMembersJob",
    job_pb2.JOB_KIND_REMOVE_MEMBERS: "imsDelImageMembersJob",
    # That service has no such jobs.
    job_pb2.JOB_KIND_VERIFY_IMAGE: "imsVerifyImageJob",
    job_pb2.JOB_KIND_ROTATE_KEY: "imsRotateKeyJob",
    job_pb2.JOB_KIND_MOVE_IMAGE: "imsMoveImageJob",
    job_pb2.JOB_KIND_SCRUB_STORE: "imsScrubStoreJob",
    job_pb2.JOB_KIND_REPACK_STORE: "imsRepackStoreJob",
    job_pb2.JOB_KIND_CHECK_STORE: "imsCheckStoreJob",
}
OVA_JOB_TYPE = "imsImportOvaImageJob"
DATA_JOB_TYPE = "imsImportDataImageJob"
REGISTER_JOB_TYPE = "imsNativeImportImageJob"

# That service knows no cancelling: what is being cancelled still runs, and ends as a failure.
JOB_STATES: Mapping[int, str] = {
    job_pb2.JOB_STATE_INIT: "INIT",
    job_pb2.JOB_STATE_RUNNING: "RUNNING",
    job_pb2.JOB_STATE_SUCCESS: "SUCCESS",
    job_pb2.JOB_STATE_FAIL: "FAIL",
    job_pb2.JOB_STATE_CANCELLING: "RUNNING",
    job_pb2.JOB_STATE_CANCELLED: "FAIL",
}


def job_type(job: job_pb2.Job, image: pb.Image | None = None) -> str:
    """``image``: the one that the job makes or fills, if it is known."""
    if job.kind == job_pb2.JOB_KIND_CREATE_IMAGE and job.sub_job_ids:
        return OVA_JOB_TYPE
    if job.kind == job_pb2.JOB_KIND_CREATE_IMAGE and image is not None:
        # It was there before. That of a sub-job was too, but no package fills an image that waits.
        if image.created_at != job.created_at and not job.parent_job_id:
            return REGISTER_JOB_TYPE
        return DATA_JOB_TYPE if image.kind == pb.IMAGE_KIND_DATA_DISK else JOB_TYPES[job.kind]
    return JOB_TYPES.get(job.kind, "")


def member_to_vendor(member: member_pb2.Member) -> dict[str, str | None]:
    """A member as the hosted service writes it (§3.11)."""
    return {
        "status": pb.MemberStatus.Name(member.status).removeprefix("MEMBER_STATUS_").lower(),
        "created_at": values.time(member.created_at),
        "updated_at": values.time(member.updated_at),
        "image_id": member.image_id,
        "member_id": member.project_id,
        "schema": "/v2/schemas/member",
    }
