"""What `--output json` prints: stable names, plain numbers, times in RFC 3339 (UTC) or null.

`clients/README.md` documents every field. A name never changes its meaning; new ones may be added.
"""

from __future__ import annotations

from typing import Any

from imsd.v1 import (
    bucket_pb2,
    catalog_pb2,
    driver_pb2,
    image_pb2,
    job_pb2,
    key_pb2,
    member_pb2,
    upload_pb2,
)

from . import wording

Fields = dict[str, Any]


def enum_text(enum: Any, value: int) -> str:
    """A value of a protobuf enum as users write it: ``DISK_FORMAT_QCOW2`` is ``qcow2``.

    The value that stands for nothing is the empty text; one this client does not know, its number.
    """
    if value == 0:
        return ""
    if value not in enum.values():
        return str(value)
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    text: str = enum.Name(value).removeprefix(prefix).lower()
    return text


def enum_value(enum: Any, text: str) -> int | None:
    """The value that `enum_text` calls ``text``; None when there is none."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    name = prefix + text.upper()
    return enum.Value(name) if text and name in enum.keys() else None  # noqa: SIM118  # not a dict


def enum_texts(enum: Any) -> list[str]:
    """Every value but the one that stands for nothing."""
    return [enum_text(enum, value) for value in enum.values() if value]


def disk_format(value: int) -> str:
    return enum_text(image_pb2.DiskFormat, value)


def compression(value: int) -> str:
    return enum_text(image_pb2.Compression, value).replace("_", "-")


def job_fields(job: job_pb2.Job) -> Fields:
    progress = job.progress
    return {
        "id": job.id,
        "kind": enum_text(job_pb2.JobKind, job.kind),
        "state": enum_text(job_pb2.JobState, job.state),
        "phase": progress.phase,
        "percent": round(progress.percent, 1),
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "rate": progress.rate_bytes_per_second,
        "eta": progress.eta_seconds,
        "queue_position": progress.queue_position,
        "image_ids": list(job.image_ids),
        "upload_ids": list(job.upload_ids),
        "sub_job_ids": list(job.sub_job_ids),
        "parent_job_id": job.parent_job_id,
        "error": _job_error(job),
        "verify_report": _verify_report(job),
        "member_results": [_member_result(result) for result in job.member_results],
        "export_report": _export_report(job),
        "scrub_report": _report(job, "scrub_report"),
        "repack_report": _report(job, "repack_report"),
        "rotation_report": _rotation_report(job),
        "move_report": _move_report(job),
        "store_report": _store_report(job),
        "project_id": job.project_id,
        "attempt": job.attempt,
        "created_at": wording.rfc3339(job.created_at),
        "started_at": wording.rfc3339(job.started_at),
        "finished_at": wording.rfc3339(job.finished_at),
    }


def upload_fields(upload: upload_pb2.Upload) -> Fields:
    return {
        "id": upload.id,
        "state": enum_text(upload_pb2.UploadState, upload.state),
        "file_name": upload.file_name,
        "size": upload.size_bytes,
        "committed_offset": upload.committed_offset,
        "disk_format": disk_format(upload.disk_format),
        "part_size": upload.part_size_bytes,
        "staged_bytes": upload.staged_bytes,
        "expected_sha256": upload.expected_sha256,
        "is_fast": upload.is_fast,
        "is_encrypted": upload.is_encrypted,
        "store": upload.store,
        "fingerprint": upload.fingerprint,
        "digest": upload.digest,
        "project_id": upload.project_id,
        "created_at": wording.rfc3339(upload.created_at),
        "expires_at": wording.rfc3339(upload.expires_at),
    }


def bucket_fields(bucket: bucket_pb2.Bucket) -> Fields:
    return {
        "name": bucket.name,
        "driver": bucket.driver,
        "region": bucket.region,
        "storage_class": bucket.storage_class,
        "read_only": bucket.is_read_only,
    }


def object_fields(found: bucket_pb2.BucketObject) -> Fields:
    return {
        "name": found.name,
        "size": found.size_bytes,
        "modified_at": wording.rfc3339(found.modified_at),
        "etag": found.etag,
    }


def driver_fields(driver: driver_pb2.Driver) -> Fields:
    return {
        "name": driver.name,
        "kind": enum_text(driver_pb2.DriverKind, driver.kind),
        "instance": driver.instance,
        "state": enum_text(driver_pb2.DriverState, driver.state),
        "detail": driver.detail,
        "summary": driver.summary,
        "capabilities": list(driver.capabilities),
        "plugin": driver.plugin,
        "default": driver.is_default,
        "used_bytes": driver.used_bytes,
        "free_bytes": driver.free_bytes,
    }


def key_fields(key: key_pb2.Key) -> Fields:
    return {
        "id": key.id,
        "name": key.name,
        "description": key.description,
        "state": enum_text(key_pb2.KeyState, key.state),
        "version": key.version,
        "images": key.image_count,
        "key_service": key.key_service,
        "problem": key.problem,
        "project_id": key.project_id,
        "created_at": wording.rfc3339(key.created_at),
        "updated_at": wording.rfc3339(key.updated_at),
        "delete_at": wording.rfc3339(key.delete_at),
    }


def format_fields(found: catalog_pb2.Format) -> Fields:
    return {
        "name": disk_format(found.disk_format),
        "summary": found.summary,
        "can_read": found.can_read,
        "can_write": found.can_write,
        "ingested_while_arriving": found.is_ingested_while_arriving,
        "compressions": [compression(value) for value in found.compressions],
    }


def service_fields(found: catalog_pb2.ServiceInfo) -> Fields:
    return {
        "version": found.version,
        "region": found.region,
        "default_store": found.default_store,
        "max_virtual_size": found.max_virtual_size_bytes,
        "max_upload_size": found.max_upload_size_bytes,
        "upload_part_size": found.upload_part_size_bytes,
        "max_running_create_jobs": found.max_running_create_jobs,
    }


def member_fields(member: member_pb2.Member) -> Fields:
    return {
        "image_id": member.image_id,
        "project_id": member.project_id,
        "status": enum_text(image_pb2.MemberStatus, member.status),
        "created_at": wording.rfc3339(member.created_at),
        "updated_at": wording.rfc3339(member.updated_at),
    }


def _job_error(job: job_pb2.Job) -> Fields | None:
    return _error(job.error) if job.HasField("error") else None


def _error(error: job_pb2.JobError) -> Fields:
    return {
        "reason": error.reason,
        "message": error.message,
        "hint": error.hint,
        "img_code": error.img_code,
    }


def _member_result(result: job_pb2.MemberResult) -> Fields:
    return {
        "image_id": result.image_id,
        "project_id": result.project_id,
        "done": result.is_done,
        "error": None if result.is_done else _error(result.error),
    }


def _store_report(job: job_pb2.Job) -> Fields | None:
    if not job.HasField("store_report"):
        return None
    report, rates = job.store_report, job.store_report.rates
    return {
        "store": report.store,
        "promises": [
            {
                "name": each.name,
                "summary": each.summary,
                "outcome": enum_text(job_pb2.TriedPromise.Outcome, each.outcome),
                "detail": each.detail,
                "seconds": each.seconds,
            }
            for each in report.promises
        ],
        "rates": {field.name: getattr(rates, field.name) for field in rates.DESCRIPTOR.fields}
        if report.HasField("rates")
        else None,
    }


def _move_report(job: job_pb2.Job) -> Fields | None:
    if not job.HasField("move_report"):
        return None
    report = job.move_report
    return {
        "store": report.store,
        "from_store": report.from_store,
        "stored_bytes": report.stored_bytes,
        "copied_bytes": report.copied_bytes,
    }


def _export_report(job: job_pb2.Job) -> Fields | None:
    if not job.HasField("export_report"):
        return None
    report = job.export_report
    return {"target": report.target, "size": report.size_bytes, "sha256": report.sha256}


def _rotation_report(job: job_pb2.Job) -> Fields | None:
    if not job.HasField("rotation_report"):
        return None
    report = job.rotation_report
    return {"key_id": report.key_id, "version": report.version, "images": report.image_count}


def _report(job: job_pb2.Job, name: str) -> Fields | None:
    """A report as it is on the wire."""
    if not job.HasField(name):  # type: ignore[arg-type]
        return None
    report = getattr(job, name)
    return {field.name: getattr(report, field.name) for field in report.DESCRIPTOR.fields}


def _verify_report(job: job_pb2.Job) -> Fields | None:
    if not job.HasField("verify_report"):
        return None
    report = job.verify_report
    return {
        "chunks_checked": report.chunks_checked,
        "stored_bytes_checked": report.stored_bytes_checked,
        "digest": report.digest,
        "damage_count": report.damage_count,
        "damage": [
            {
                "guest_offset": damage.guest_offset,
                "length": damage.length,
                "blob_id": damage.blob_id,
                "message": damage.message,
            }
            for damage in report.damage
        ],
    }
