"""Changing what is known of an image (contract §3.9): which fields, of which kind, and what they must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imsd.contract import FailedPrecondition, InvalidRequest, NotFound
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus

from . import attribute_checks, checks
from .image_changes import ImageRef, change, image_at, require_status
from .kind_rules import (
    ISO,
    check_license,
    check_ram_of_bits,
    check_server_kind,
    disk_bounds,
    first_kind,
    min_disk,
    refuse_kind,
)
from .os_identity import identify_with
from .runtime import Runtime

# What can be changed; beside these tags, properties and marks of support, each of them alone too.
UPDATABLE = (
    "name",
    "description",
    "os_version",
    "min_disk_gb",
    "min_ram_mb",
    "max_ram_mb",
    "is_protected",
    "boot_mode",
    "family",
    "license_type",
    "enterprise_project_id",
    "has_nic_multiqueue",
    "shutdown_timeout_seconds",
    "is_guest_configured",
    "has_no_credential_injection",
    "agents",
    "os_features",
    "disk_format",  # only of an image that waits for its bytes
)

# Of a data disk: contract §3.9 has name and description; what the hosted service changes by other calls
# than an update, protection and tags, is no rule of updates.
UPDATABLE_OF_DATA = frozenset({"name", "description", "is_protected", "tags"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChange:
    """What an update sets. ``properties`` replaces all; ``set_properties`` changes single ones.

    A single property with an empty value is removed. ``support`` and ``set_support``: the same of the marks
    of support.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] | None = None
    properties: Mapping[str, str] | None = None
    set_properties: Mapping[str, str] = field(default_factory=dict)
    support: Mapping[str, object] | None = None
    set_support: Mapping[str, object] = field(default_factory=dict)

    @property
    def fields(self) -> frozenset[str]:
        """The names of what it changes."""
        names = set(self.values)
        for name, is_set in (
            ("tags", self.tags is not None),
            ("properties", self.properties is not None or self.set_properties),
            ("server_support", self.support is not None or self.set_support),
        ):
            if is_set:
                names.add(name)
        return frozenset(names)


class ImageUpdates:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def update(self, ref: ImageRef, wanted: ImageChange) -> ImageRecord:
        """Change an image that is ACTIVE, or was prepared to be filled.

        Raises InvalidRequest (also MIN_DISK_TOO_SMALL), NotFound (also a property to be removed),
        PermissionDenied (NOT_OWNER), Conflict, FailedPrecondition (also IMAGE_KIND_UNSUITED).
        """
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_updatable(current)
            return await change(c, self._runtime, current, self._checked(current, wanted))

    def _checked(self, current: ImageRecord, wanted: ImageChange) -> dict[str, object]:
        _require_kind(current, wanted)
        values: dict[str, Any] = {
            name: _CHECKS[name](value) if name in _CHECKS else value for name, value in wanted.values.items()
        }
        if "disk_format" in values:
            values |= _format(current, values["disk_format"])
        if "min_disk_gb" in values:
            values["min_disk_gb"] = self._min_disk(current, values["min_disk_gb"])
        checks.ram(values.get("min_ram_mb", current.min_ram_mb), values.get("max_ram_mb", current.max_ram_mb))
        if wanted.tags is not None:
            values["tags"] = checks.tags(wanted.tags, self._runtime.limits.max_tags_per_image)
        if "properties" in wanted.fields:
            values["properties"] = _properties(current, wanted)
        if "server_support" in wanted.fields:
            marks = current.server_support if wanted.support is None else wanted.support
            values["server_support"] = attribute_checks.server_support({**marks, **wanted.set_support})
        values |= _system(current, values)
        if not values.keys().isdisjoint({"min_ram_mb", "os_bits"}):
            wanted_mb = values.get("min_ram_mb", current.min_ram_mb)
            check_ram_of_bits(values.get("os_bits", current.os_bits), wanted_mb)
        return values

    def _min_disk(self, current: ImageRecord, asked_gb: int) -> int:
        if current.status is ImageStatus.ACTIVE:
            return min_disk(current.kind, asked_gb, current.virtual_size, self._runtime.limits)
        lowest, highest = disk_bounds(current.kind, self._runtime.limits)
        return asked_gb and checks.number("min_disk_gb", asked_gb, lowest, highest)


def require_updatable(image: ImageRecord) -> None:
    """Raises FailedPrecondition."""
    if not (image.status is ImageStatus.QUEUED and image.is_prepared):
        require_status(image, [ImageStatus.ACTIVE])


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "name": checks.name,
    "description": checks.description,
    "os_version": attribute_checks.os_version,
    "family": attribute_checks.family,
    "enterprise_project_id": attribute_checks.enterprise_project,
    "shutdown_timeout_seconds": attribute_checks.shutdown_timeout,
    "agents": attribute_checks.agents,
    "os_features": attribute_checks.os_features,
}


def _require_kind(current: ImageRecord, wanted: ImageChange) -> None:
    refused = sorted(wanted.fields - UPDATABLE_OF_DATA - {"disk_format"})
    if current.kind is ImageKind.DATA_DISK and refused:
        raise FailedPrecondition(
            f"image {current.name!r} is a data disk: its {refused[0]} cannot be updated",
            reason="IMAGE_KIND_UNSUITED",
            field="update_mask",
            hint=f"of a data disk only {', '.join(sorted(UPDATABLE_OF_DATA))} can be updated",
        )


def _format(current: ImageRecord, disk_format: str) -> dict[str, object]:
    """What an image is to be filled with, and the kind that follows from it.

    A format that was declared wrong would else refuse every file. Raises InvalidRequest
    (FIELD_NOT_UPDATABLE, IMAGE_KIND_UNSUITED).
    """
    if current.status is not ImageStatus.QUEUED:
        raise InvalidRequest(
            f"image {current.name!r} has its bytes: what format they came in does not change",
            reason="FIELD_NOT_UPDATABLE",
            field="update_mask",
            hint="download or export it in the format you want",
        )
    if current.kind is ImageKind.DATA_DISK:
        if disk_format == ISO:
            refuse_kind("disk_format", f"image {current.name!r} is a data disk: an ISO cannot fill it")
        return {"disk_format": disk_format}
    kind = first_kind("", disk_format)
    check_server_kind(current.server_kind, kind)
    return {"disk_format": disk_format, "kind": kind}


def _system(current: ImageRecord, values: Mapping[str, Any]) -> dict[str, object]:
    """What follows from a new os_version; and what the system allows."""
    found = {}
    os_type = current.os_type
    if "os_version" in values:
        guest_type, guest_bits = str(current.guest.get("os_type", "")), current.guest.get("bits", 0)
        bits = guest_bits if isinstance(guest_bits, int) else 0
        identity = identify_with(values["os_version"], guest_type.lower(), bits)
        os_type = identity.os_type
        found = {"os_type": os_type, "os_bits": identity.os_bits, "platform": identity.platform}
    check_license(values.get("license_type", current.license_type), os_type)
    if values.get("boot_mode") == "bios" and current.architecture == "arm":
        raise InvalidRequest(
            "servers for arm start with UEFI only", field="boot_mode", hint="leave the boot mode as it is"
        )
    return found


def _properties(current: ImageRecord, wanted: ImageChange) -> dict[str, str]:
    properties = dict(current.properties if wanted.properties is None else wanted.properties)
    for key, content in wanted.set_properties.items():
        if not content and key not in properties:
            raise NotFound(
                f"image {current.name!r} has no property {key[:64]!r}",
                field="properties",
                hint="case counts; look at its properties",
            )
        properties[key] = content
        if not content:
            del properties[key]
    return checks.properties(properties, known=current.properties)
