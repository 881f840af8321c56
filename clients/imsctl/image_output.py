"""Images as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.v1 import guest_pb2, image_pb2

from . import wording
from .image_json import image_fields, support_fields
from .json_fields import disk_format, enum_text
from .output import print_csv, print_fields, print_json, print_table
from .session import Session

CSV_COLUMNS = (
    "id",
    "name",
    "status",
    "disk_format",
    "virtual_size",
    "data_size",
    "stored_size",
    "new_size",
    "digest",
    "min_disk",
    "min_ram",
    "max_ram",
    "os_version",
    "description",
    "protected",
    "tags",
    "properties",
    "store",
    "job_id",
    "created_at",
    "updated_at",
    "active_at",
    "kind",
    "family",
    "visibility",
    "os_type",
    "architecture",
)


def status_text(image: image_pb2.Image) -> str:
    return enum_text(image_pb2.ImageStatus, image.status)


def print_image(session: Session, image: image_pb2.Image) -> None:
    if session.is_json:
        print_json(image_fields(image))
        return
    print_fields(
        {
            "id": image.id,
            "name": image.name,
            "status": status_text(image),
            "kind": enum_text(image_pb2.ImageKind, image.kind).replace("_", " "),
            "family": image.family,
            "description": image.description,
            "format": disk_format(image.disk_format),
            "virtual size": wording.size(image.virtual_size_bytes),
            "data": wording.size(image.data_size_bytes),
            "stored": _stored(image),
            "digest": image.digest,
            "os version": image.os_version,
            "platform": image.platform,
            "licence": enum_text(image_pb2.LicenseType, image.license_type),
            "processor": enum_text(guest_pb2.Architecture, image.architecture),
            "boot mode": enum_text(guest_pb2.BootMode, image.boot_mode),
            "supported on": ", ".join(image.guest.supported_server_types),
            "preflight": preflight(image),
            "min disk": f"{image.min_disk_gb} GB" if image.min_disk_gb else "",
            "min ram": f"{image.min_ram_mb} MB" if image.min_ram_mb else "",
            "max ram": f"{image.max_ram_mb} MB" if image.max_ram_mb else "",
            "protected": "yes" if image.is_protected else "",
            **_standing(image),
            **_for_servers(image),
            "tags": wording.pairs(dict(image.tags)),
            "properties": wording.pairs(dict(image.properties)),
            "findings": "; ".join(f"{found.message} [{found.code}]" for found in image.findings),
            "came from": _origin(image),
            "enterprise project": "" if image.enterprise_project_id == "0" else image.enterprise_project_id,
            "store": image.store,
            "encrypted": f"yes, under the key {image.key_id}" if image.is_encrypted else "",
            "job": image.job_id,
            "created": wording.local_time(image.created_at),
            "updated": wording.local_time(image.updated_at),
        }
    )


def _standing(image: image_pb2.Image) -> dict[str, str]:
    """Who sees it, and what was decided of it."""
    replacement = image.deprecation.replacement_image_id
    deprecated = wording.local_time(image.deprecation.deprecated_at)
    published = f"yes, as {image.product_code}" if image.product_code else "yes"
    visibility, member = (
        enum_text(image_pb2.Visibility, image.visibility),
        enum_text(image_pb2.MemberStatus, image.member_status),
    )
    return {
        "project": image.project_id if member or visibility != "private" else "",
        "seen by": "" if visibility == "private" else visibility,
        "share": member,
        "deprecated": f"{deprecated}, use {replacement}" if replacement else deprecated,
        "published": published if image.is_published else "",
        "deleted": wording.local_time(image.deleted_at),
        "gone for good": wording.local_time(image.purge_at),
    }


def _for_servers(image: image_pb2.Image) -> dict[str, str]:
    """What servers that start from it need to know."""
    support = support_fields(image.server_support)
    marks = [name if value is True else f"{name}={value}" for name, value in support.items()]
    is_bare_metal = image.server_kind == image_pb2.SERVER_KIND_BARE_METAL
    timeout = image.shutdown_timeout_seconds
    return {
        "servers": "bare metal" if is_bare_metal else "",
        "supports": ", ".join(marks),
        "network queues": "several" if image.has_nic_multiqueue else "",
        "shutdown": f"{timeout} s" if timeout not in (0, 60) else "",
        "guest configured": "yes" if image.is_guest_configured else "",
        "credentials": "cloud-init cannot set them" if image.has_no_credential_injection else "",
        "agents": ", ".join(image.agents),
        "os features": image.os_features,
    }


def _origin(image: image_pb2.Image) -> str:
    kind = enum_text(image_pb2.OriginKind, image.origin_kind).replace("_", " ")
    how = " by fast import" if image.is_fast_imported else ""
    return f"{kind} {image.origin}".strip() + how


def print_images(session: Session, images: Sequence[image_pb2.Image], *, has_owner: bool = False) -> None:
    """``has_owner``: a table says of which project each image is, and who sees it."""
    if session.is_json:
        print_json([image_fields(image) for image in images])
    elif session.output == "csv":
        print_csv([image_fields(image) for image in images], CSV_COLUMNS)
    else:
        header = ["ID", "NAME", "STATUS", "SYSTEM", "FORMAT", "VIRTUAL>", "STORED>", "NEW>", "CREATED"]
        if has_owner:
            header += ["PROJECT", "SEEN BY"]
        print_table(header, [(*_row(image), *(_owner(image) if has_owner else ())) for image in images])


def _owner(image: image_pb2.Image) -> tuple[str, str]:
    visibility = enum_text(image_pb2.Visibility, image.visibility)
    status = enum_text(image_pb2.MemberStatus, image.member_status)
    return image.project_id, f"{visibility} ({status})" if status else visibility


def _row(image: image_pb2.Image) -> tuple[str, ...]:
    return (
        image.id,
        image.name,
        status_text(image),
        _system(image),
        disk_format(image.disk_format),
        wording.size(image.virtual_size_bytes),
        wording.size(image.stored_size_bytes),
        wording.size(image.new_size_bytes),
        wording.local_time(image.created_at),
    )


def _system(image: image_pb2.Image) -> str:
    """Which system servers start with or install, or that there is none."""
    if image.kind == image_pb2.IMAGE_KIND_DATA_DISK:
        return "data disk"
    is_disc = image.kind == image_pb2.IMAGE_KIND_ISO
    return f"disc of {image.os_version or 'unknown'}" if is_disc else image.os_version


def _stored(image: image_pb2.Image) -> str:
    """What it takes, and how much of that the store did not have yet."""
    return f"{wording.size(image.stored_size_bytes)}, {wording.size(image.new_size_bytes)} of it new"


def preflight(image: image_pb2.Image) -> str:
    """What may keep it from booting, in a few words."""
    severities = [found.severity for found in image.guest.findings]
    blocking = severities.count(guest_pb2.GuestFinding.SEVERITY_BLOCKS_BOOT)
    doubtful = severities.count(guest_pb2.GuestFinding.SEVERITY_MAY_BLOCK_BOOT)
    if not image.guest.is_verified:
        is_bare = image.guest.is_inspected and image.kind == image_pb2.IMAGE_KIND_SYSTEM_DISK
        return f"no system was found in it, see `imsctl image inspect {image.id}`" if is_bare else ""
    if not blocking and not doubtful:
        return "nothing found against booting"
    verdict = "will not boot" if blocking else "may not work"
    count = blocking or doubtful
    findings = "1 finding" if count == 1 else f"{count} findings"
    return f"{verdict}: {findings}, see `imsctl image inspect {image.id}`"
