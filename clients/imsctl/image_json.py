"""What `--output json` prints of an image, and of what was found inside its disk."""

from __future__ import annotations

from imsd.v1 import guest_pb2, image_pb2

from . import wording
from .json_fields import Fields, disk_format, enum_text


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
        **_service_fields(image),
        **_system_fields(image),
    }


def _service_fields(image: image_pb2.Image) -> Fields:
    deprecation = image.deprecation if image.HasField("deprecation") else None
    return {
        "kind": enum_text(image_pb2.ImageKind, image.kind),
        "visibility": enum_text(image_pb2.Visibility, image.visibility),
        "family": image.family,
        "deprecated_at": wording.rfc3339(deprecation.deprecated_at) if deprecation else None,
        "replacement_image_id": deprecation.replacement_image_id if deprecation else "",
        "published": image.is_published,
        "product_code": image.product_code,
        "deleted_at": wording.rfc3339(image.deleted_at),
        "purge_at": wording.rfc3339(image.purge_at),
        "origin_kind": enum_text(image_pb2.OriginKind, image.origin_kind),
        "origin": image.origin,
        "fast_imported": image.is_fast_imported,
        "enterprise_project_id": image.enterprise_project_id,
        "encrypted": image.is_encrypted,
        "key_id": image.key_id,
        "member_status": enum_text(image_pb2.MemberStatus, image.member_status),
    }


def _system_fields(image: image_pb2.Image) -> Fields:
    return {
        "os_type": enum_text(guest_pb2.OsType, image.os_type),
        "os_bits": image.os_bits,
        "platform": image.platform,
        "server_kind": enum_text(image_pb2.ServerKind, image.server_kind),
        "server_support": support_fields(image.server_support),
        "nic_multiqueue": image.has_nic_multiqueue,
        "shutdown_timeout": image.shutdown_timeout_seconds,
        "guest_configured": image.is_guest_configured,
        "license_type": enum_text(image_pb2.LicenseType, image.license_type),
        "agents": list(image.agents),
        "os_features": image.os_features,
        "credential_injection": not image.has_no_credential_injection,
    }


def support_fields(support: image_pb2.ServerSupport) -> Fields:
    """The marks that are set: ``kvm`` true, ``kvm_gpu_type`` a text."""
    return {field.name.removeprefix("has_"): value for field, value in support.ListFields()}


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
