"""What a caller wants a new image to be, checked, and the record that begins with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imsd.contract import InvalidRequest
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, ServerKind

from . import attribute_checks, checks
from .fast_import import check_declared
from .image_file import ImageFile, check_file
from .keys.encryption import require_encryptable
from .kind_rules import (
    WORDS,
    check_license,
    check_ram_of_bits,
    check_server_kind,
    disk_bounds,
    first_kind,
    refuse_kind,
)
from .os_identity import identify, identify_with
from .runtime import Runtime
from .service_limits import ServiceLimits

# Of what only makes sense with a system that servers start from.
_OF_SYSTEMS = ("server_support", "license_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage(ImageFile):
    """What a caller wants; ``min_disk_gb`` 0: as large as the disk in the file. Empty texts say nothing.

    ``kind``, ``server_kind``: values of `ImageKind` and `ServerKind`.
    """

    name: str
    description: str = ""
    os_version: str = ""
    architecture: str = ""
    boot_mode: str = ""
    min_disk_gb: int = 0
    min_ram_mb: int = 0
    max_ram_mb: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    server_kind: str = ""
    os_type: str = ""
    license_type: str = ""
    family: str = ""
    server_support: Mapping[str, object] = field(default_factory=dict)
    enterprise_project_id: str = ""
    is_protected: bool = False


def checked(new: NewImage, service: ServiceLimits) -> NewImage:
    """``new`` as it will be kept. Raises InvalidRequest (also ISO_OS_VERSION_REQUIRED, IMG.0166)."""
    check_file(new)
    kept = checked_attributes(new, service)
    require_system_of_iso(kept)
    return kept


def require_system_of_iso(new: NewImage) -> None:
    """Who asks for an ISO image says which system it installs (contract §3.1).

    A file that nobody called an ISO and that proves to be one is taken for what the overview's 6.2 takes a
    disk in which nothing is found. Raises InvalidRequest (ISO_OS_VERSION_REQUIRED, IMG.0166).
    """
    if first_kind(new.kind, new.disk_format) is ImageKind.ISO and not new.os_version:
        raise InvalidRequest(
            "an installation disc does not say what it installs: the request must",
            reason="ISO_OS_VERSION_REQUIRED",
            field="os_version",
            hint="give os_version; `imsctl os-version list` shows the names",
        )


def checked_attributes(new: NewImage, service: ServiceLimits) -> NewImage:
    """`checked`, of an image without a file."""
    checks.ram(new.min_ram_mb, new.max_ram_mb)
    kept = replace(
        new,
        name=checks.name(new.name),
        description=checks.description(new.description),
        os_version=attribute_checks.os_version(new.os_version),
        tags=checks.tags(new.tags, service.max_tags_per_image),
        properties=checks.properties(new.properties),
        family=attribute_checks.family(new.family),
        server_support=attribute_checks.server_support(new.server_support),
        enterprise_project_id=attribute_checks.enterprise_project(new.enterprise_project_id),
    )
    if kept.key:
        require_encryptable(
            is_fast=kept.is_fast, kind=kept.kind, disk_format=kept.disk_format, server_kind=kept.server_kind
        )
    if kept.is_fast:
        check_declared(kept.disk_format, kept.kind, kept.os_version)
        # Of another import, what is found in the disk counts, and not what is declared.
        check_ram_of_bits(identify(kept.os_version).os_bits, kept.min_ram_mb)
    _check_kind(kept, service)
    return kept


def _check_kind(new: NewImage, service: ServiceLimits) -> None:
    """Refuse what does not fit the kind that ``new`` asks for. Raises InvalidRequest."""
    kind = first_kind(new.kind, new.disk_format)
    if kind is ImageKind.DATA_DISK:
        for name in _OF_SYSTEMS:
            if getattr(new, name):
                refuse_kind(name, f"{WORDS[kind]} holds no system: it has no {name}")
    check_server_kind(new.server_kind, kind)
    if new.disk_format and new.kind and (new.kind == ImageKind.ISO) != (new.disk_format == ImageKind.ISO):
        refuse_kind("kind", f"a file in the format {new.disk_format} cannot be {WORDS[kind]}")
    if new.min_disk_gb:
        checks.number("min_disk_gb", new.min_disk_gb, *disk_bounds(kind, service))
    check_license(new.license_type, identify(new.os_version).os_type or new.os_type)


def queued_image(runtime: Runtime, project_id: str, new: NewImage, store: str, job_id: str) -> ImageRecord:
    """The image without a disk that ``new``, which was checked, begins with."""
    now = runtime.clock()
    identity = identify_with(new.os_version, new.os_type)
    return ImageRecord(
        id=runtime.new_id(),
        project_id=project_id,
        region=runtime.region,
        name=new.name,
        description=new.description,
        status=ImageStatus.QUEUED,
        disk_format=new.disk_format,
        os_version=new.os_version,
        architecture=new.architecture,
        boot_mode=new.boot_mode,
        min_disk_gb=new.min_disk_gb,
        min_ram_mb=new.min_ram_mb,
        max_ram_mb=new.max_ram_mb,
        tags=new.tags,
        properties=new.properties,
        kind=first_kind(new.kind, new.disk_format),
        server_kind=ServerKind(new.server_kind or ServerKind.VIRTUAL),
        os_type=identity.os_type,
        os_bits=identity.os_bits,
        platform=identity.platform,
        license_type=new.license_type,
        family=new.family,
        is_protected=new.is_protected,
        server_support=new.server_support,
        enterprise_project_id=new.enterprise_project_id,
        store=store,
        job_id=job_id,
        created_at=now,
        updated_at=now,
    )
