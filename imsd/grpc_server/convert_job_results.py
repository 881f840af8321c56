"""What came of a job, as messages: what each kind of it tells when it succeeded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imsd.metadata.records import JobKind, JobRecord, JobState
from imsd.v1 import job_pb2

from .error_mapping import img_code

# Of a pair of image and project; the same reasons mean other conditions, and have other codes, elsewhere.
IMG_CODES_OF_SHARING = {
    "IMAGE_PUBLIC": "IMG.0089",
    "IMAGE_PUBLISHED": "IMG.0107",
    "QUOTA_EXCEEDED": "IMG.0088",
}


def add_results(message: job_pb2.Job, record: JobRecord) -> None:
    """Put what the job of ``record`` found or did into its ``message``."""
    if record.state is not JobState.SUCCESS:
        return
    if record.kind is JobKind.VERIFY_IMAGE:
        message.verify_report.CopyFrom(_report_to_pb(dict(record.result)))
    if record.kind is JobKind.EXPORT_IMAGE:
        message.export_report.CopyFrom(job_pb2.ExportReport(**record.result))
    if record.kind is JobKind.ROTATE_KEY:
        message.rotation_report.CopyFrom(job_pb2.RotationReport(**record.result))
    if record.kind is JobKind.CHECK_STORE:
        message.store_report.CopyFrom(_store_report_to_pb(record.result))
    if record.kind is JobKind.MOVE_IMAGE:
        message.move_report.CopyFrom(job_pb2.MoveReport(**record.result))
    if record.kind is JobKind.SCRUB_STORE:
        message.scrub_report.CopyFrom(job_pb2.ScrubReport(**record.result))
    if record.kind is JobKind.REPACK_STORE:
        message.repack_report.CopyFrom(job_pb2.RepackReport(**record.result))
    if record.kind in (JobKind.ADD_MEMBERS, JobKind.UPDATE_MEMBERS, JobKind.REMOVE_MEMBERS):
        message.member_results.extend(map(_member_result_to_pb, record.result["members"]))


def _member_result_to_pb(result: Mapping[str, str]) -> job_pb2.MemberResult:
    message = job_pb2.MemberResult(image_id=result["image_id"], project_id=result["project_id"])
    why_not = {key: text for key, text in result.items() if key not in ("image_id", "project_id")}
    message.is_done = not why_not
    if why_not:
        reason, field = why_not["reason"], why_not.pop("field", "")
        code = IMG_CODES_OF_SHARING.get(reason) or img_code(reason, field)
        message.error.CopyFrom(job_pb2.JobError(**why_not, img_code=code))
    return message


def _store_report_to_pb(result: Mapping[str, Any]) -> job_pb2.StoreReport:
    report = job_pb2.StoreReport(store=result["store"])
    for tried in result["promises"]:
        outcome = job_pb2.TriedPromise.Outcome.Value(f"OUTCOME_{tried['outcome'].upper()}")
        report.promises.append(job_pb2.TriedPromise(**{**tried, "outcome": outcome}))
    if result["rates"]:
        report.rates.CopyFrom(job_pb2.StoreRates(**result["rates"]))
    return report


def _report_to_pb(result: dict[str, Any]) -> job_pb2.VerifyReport:
    damage = result.pop("damage", [])
    report = job_pb2.VerifyReport(**result)
    report.damage.extend(job_pb2.Damage(**piece) for piece in damage)
    return report
