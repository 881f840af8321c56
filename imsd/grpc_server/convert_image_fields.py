"""Images as messages, and the enums and marks of an image both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imsd.core.attribute_checks import SUPPORT_DEVICES, SUPPORT_FLAGS
from imsd.guest_messages import (
    ARCHITECTURES,
    BOOT_MODES,
    OS_TYPES,
    architecture_to_pb,
    boot_mode_to_pb,
    kept_guest_to_pb,
)
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    MemberStatus,
    OriginKind,
    ServerKind,
    Visibility,
)
from imsd.v1 import image_pb2

from . import convert

# What the columns say → the numbers of the wire. Kinds of images, for example: "iso" → IMAGE_KIND_ISO.
KINDS: Mapping[str, Any] = {kind: image_pb2.ImageKind.Value(f"IMAGE_KIND_{kind.name}") for kind in ImageKind}
STATUSES: Mapping[str, Any] = {
    status: image_pb2.ImageStatus.Value(f"IMAGE_STATUS_{status.name}") for status in ImageStatus
}
VISIBILITIES: Mapping[str, Any] = {
    one: image_pb2.Visibility.Value(f"VISIBILITY_{one.name}") for one in Visibility
}
SERVER_KINDS: Mapping[str, Any] = {
    kind: image_pb2.ServerKind.Value(f"SERVER_KIND_{kind.name}") for kind in ServerKind
}
ORIGIN_KINDS: Mapping[str, Any] = {
    kind: image_pb2.OriginKind.Value(f"ORIGIN_KIND_{kind.name}") for kind in OriginKind
}
MEMBER_STATUSES: Mapping[str, Any] = {
    status: image_pb2.MemberStatus.Value(f"MEMBER_STATUS_{status.name}") for status in MemberStatus
}
LICENSE_TYPES: Mapping[str, Any] = {
    "platform": image_pb2.LICENSE_TYPE_PLATFORM,
    "byol": image_pb2.LICENSE_TYPE_BYOL,
}
OS_TYPE_NUMBERS: Mapping[str, Any] = {name.lower(): number for name, number in OS_TYPES.items()}


def image_to_pb(record: ImageRecord) -> image_pb2.Image:
    image = listed_image_to_pb(record)
    if record.guest:
        image.guest.CopyFrom(kept_guest_to_pb(record.guest))
    return image


def listed_image_to_pb(record: ImageRecord) -> image_pb2.Image:
    """An image without what was found inside, which is long."""
    image = image_pb2.Image(
        id=record.id,
        project_id=record.project_id,
        region=record.region,
        origin_image_id=record.origin_image_id,
        name=record.name,
        description=record.description,
        status=STATUSES[record.status],
        disk_format=convert.format_to_pb(record.disk_format),
        virtual_size_bytes=record.virtual_size,
        data_size_bytes=record.data_size,
        stored_size_bytes=record.stored_size,
        new_size_bytes=record.new_size,
        digest=record.digest,
        min_disk_gb=record.min_disk_gb,
        min_ram_mb=record.min_ram_mb,
        max_ram_mb=record.max_ram_mb,
        is_protected=record.is_protected,
        tags=record.tags,
        properties=record.properties,
        findings=[image_pb2.Finding(code=f["code"], message=f["message"]) for f in record.findings],
        store=record.store,
        job_id=record.job_id,
        etag=str(record.version),
        created_at=convert.time_to_pb(record.created_at),
        updated_at=convert.time_to_pb(record.updated_at),
        active_at=convert.time_to_pb(record.active_at),
        deleted_at=convert.time_to_pb(record.deleted_at),
        purge_at=convert.time_to_pb(record.purge_at),
        **_system_fields(record),
        **_service_fields(record),
    )
    if record.deprecated_at:
        image.deprecation.deprecated_at.FromDatetime(record.deprecated_at)
        image.deprecation.replacement_image_id = record.replacement_image_id
    return image


def _system_fields(record: ImageRecord) -> dict[str, Any]:
    """What the image says of the system on its disk."""
    return {
        "os_version": record.os_version,
        "architecture": architecture_to_pb(record.architecture),
        "boot_mode": boot_mode_to_pb(record.boot_mode),
        "os_type": OS_TYPE_NUMBERS.get(record.os_type, 0),
        "os_bits": record.os_bits,
        "platform": record.platform,
        "license_type": LICENSE_TYPES.get(record.license_type, 0),
        "server_kind": SERVER_KINDS[record.server_kind],
        "server_support": server_support_to_pb(record.server_support),
        "has_nic_multiqueue": record.has_nic_multiqueue,
        "shutdown_timeout_seconds": record.shutdown_timeout_seconds,
        "is_guest_configured": record.is_guest_configured,
        "agents": record.agents,
        "os_features": record.os_features,
        "has_no_credential_injection": record.has_no_credential_injection,
    }


def _service_fields(record: ImageRecord) -> dict[str, Any]:
    """What the service knows of the image: its kind, whose it is, where it came from."""
    return {
        "kind": KINDS[record.kind],
        "visibility": VISIBILITIES[record.visibility],
        "family": record.family,
        "is_published": record.is_published,
        "product_code": record.product_code,
        "origin_kind": ORIGIN_KINDS.get(record.origin_kind, 0),
        "origin": record.origin,
        "is_fast_imported": record.is_fast_imported,
        "enterprise_project_id": record.enterprise_project_id,
        "member_status": MEMBER_STATUSES[record.member_status] if record.member_status else 0,
    }


def server_support_to_pb(marks: Mapping[str, object]) -> image_pb2.ServerSupport:
    return image_pb2.ServerSupport(**marks)  # type: ignore[arg-type]  # the names are the message's own


def server_support_from_pb(message: image_pb2.ServerSupport) -> dict[str, object]:
    """Every mark, set or not."""
    return {name: getattr(message, name) for name in (*SUPPORT_FLAGS, *SUPPORT_DEVICES)}


def kind_from_pb(value: int) -> str:
    """Empty when unspecified, as of all of these. Raises InvalidRequest."""
    return convert.known_name(KINDS, value, "kind")


def server_kind_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(SERVER_KINDS, value, "server_kind")


def os_type_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(OS_TYPE_NUMBERS, value, "os_type")


def license_type_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(LICENSE_TYPES, value, "license_type")


def visibility_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(VISIBILITIES, value, "visibility")


def architecture_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(ARCHITECTURES, value, "architecture")


def boot_mode_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(BOOT_MODES, value, "boot_mode")
