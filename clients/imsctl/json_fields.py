"""What `--output json` prints: stable names, plain numbers, times in RFC 3339 (UTC) or null.

`clients/README.md` documents every field. A name never changes its meaning; new ones may be added.
"""

from __future__ import annotations

from typing import Any

from imsd.v1 import catalog_pb2, driver_pb2, guest_pb2, image_pb2, job_pb2, upload_pb2

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


def image_fields(image: image_pb2.Image) -> Fields:
    return {
        "id": image.id,
        "name": image.name,
        "status": enum_text(image_pb2.ImageStatus, image.status),
        "disk_format": disk_format(image.disk_format),
        "virtual_size": image.virtual_size_bytes,
        "data_size": image.data_size_bytes,
        "stored_size": image.stored_size_bytes,
        "new_size": image.new_size_bytes,
        "digest": image.digest,
        "min_disk": image.min_disk_gb,
        "min_ram": image.min_ram_mb,
        "max_ram": image.max_ram_mb,
        "os_version": image.os_version,
        "architecture": enum_text(guest_pb2.Architecture, image.architecture),
        "boot_mode": enum_text(guest_pb2.BootMode, image.boot_mode),
        "description": image.description,
        "protected": image.is_protected,
        "tags": dict(sorted(image.tags.items())),
        "properties": dict(sorted(image.properties.items())),
        "findings": [{"code": found.code, "message": found.message} for found in image.findings],
        "guest": guest_fields(image.guest) if image.HasField("guest") else None,
        "project_id": image.project_id,
        "region": image.region,
        "origin_image_id": image.origin_image_id,
        "store": image.store,
        "job_id": image.job_id,
        "etag": image.etag,
        "created_at": wording.rfc3339(image.created_at),
        "updated_at": wording.rfc3339(image.updated_at),
        "active_at": wording.rfc3339(image.active_at),
    }


def guest_fields(guest: guest_pb2.GuestReport) -> Fields:
    return {
        "inspected": guest.is_inspected,
        "verified": guest.is_verified,
        "os_type": enum_text(guest_pb2.OsType, guest.os_type),
        "distribution": guest.distribution,
        "name": guest.name,
        "version": guest.version,
        "os_version": guest.os_version,
        "bits": guest.bits,
        "architecture": enum_text(guest_pb2.Architecture, guest.architecture),
        "boot_modes": [enum_text(guest_pb2.BootMode, mode) for mode in guest.boot_modes],
        "default_boot_mode": enum_text(guest_pb2.BootMode, guest.default_boot_mode),
        "cloud_init": guest.has_cloud_init,
        "guest_agent": guest.has_guest_agent,
        "virtio_disk": enum_text(guest_pb2.Readiness, guest.virtio_disk),
        "virtio_network": enum_text(guest_pb2.Readiness, guest.virtio_network),
        "partitions": [_partition_fields(part) for part in guest.partitions],
        "findings": [_guest_finding_fields(found) for found in guest.findings],
        "evidence": list(guest.evidence),
        "supported_server_types": list(guest.supported_server_types),
        "uefi_supported": guest.is_uefi_supported,
    }


def _partition_fields(part: guest_pb2.GuestPartition) -> Fields:
    return {
        "number": part.number,
        "name": part.name,
        "size": part.size_bytes,
        "type": part.type,
        "file_system": part.file_system,
        "label": part.label,
        "used_as": part.used_as,
    }


def _guest_finding_fields(found: guest_pb2.GuestFinding) -> Fields:
    return {
        "code": found.code,
        "severity": enum_text(guest_pb2.GuestFinding.Severity, found.severity),
        "message": found.message,
        "remedy": found.remedy,
    }


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
        "fingerprint": upload.fingerprint,
        "digest": upload.digest,
        "project_id": upload.project_id,
        "created_at": wording.rfc3339(upload.created_at),
        "expires_at": wording.rfc3339(upload.expires_at),
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


def _job_error(job: job_pb2.Job) -> Fields | None:
    if not job.HasField("error"):
        return None
    return {"reason": job.error.reason, "message": job.error.message, "hint": job.error.hint}


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
