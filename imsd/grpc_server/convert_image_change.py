"""Requests to change an image, converted: only what the mask names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from imsd.contract import InvalidRequest
from imsd.core.attribute_checks import SUPPORT_DEVICES, SUPPORT_FLAGS
from imsd.core.image_changes import ImageRef
from imsd.core.image_update import UPDATABLE, ImageChange
from imsd.v1 import image_pb2 as pb

from . import convert
from . import convert_image_fields as fields

MARKS = frozenset({*SUPPORT_FLAGS, *SUPPORT_DEVICES})
FIXED = frozenset(field.name for field in pb.Image.DESCRIPTOR.fields) - {
    *UPDATABLE,
    "tags",
    "properties",
    "server_support",
}

# What is another value in the message than in the record.
_FROM_PB: Mapping[str, Callable[[Any], object]] = {
    "boot_mode": fields.boot_mode_from_pb,
    "license_type": fields.license_type_from_pb,
    "disk_format": convert.format_from_pb,
    "agents": list,
}


def image_ref_from_pb(request: Any) -> ImageRef:
    """Of any request that names an image."""
    return ImageRef(request.project_id, request.image_id, getattr(request, "etag", ""))


def image_change_from_pb(request: pb.UpdateImageRequest) -> ImageChange:
    """Raises InvalidRequest for an unknown or empty mask, FIELD_NOT_UPDATABLE for what never changes."""
    if not request.update_mask.paths:
        raise InvalidRequest("update_mask names no field", field="update_mask")
    image = request.image
    values: dict[str, Any] = {}
    properties: dict[str, str] = {}
    support: dict[str, object] = {}
    whole: dict[str, Any] = {}
    for path in dict.fromkeys(request.update_mask.paths):
        head, _, rest = path.partition(".")
        if path in UPDATABLE:
            convert = _FROM_PB.get(path)
            value = getattr(image, path)
            values[path] = convert(value) if convert else value
        elif path in ("tags", "properties"):
            whole[path] = dict(getattr(image, path))
        elif path == "server_support":
            whole["support"] = fields.server_support_from_pb(image.server_support)
        elif head == "properties" and rest:
            properties[rest] = image.properties.get(rest, "")
        elif head == "server_support" and rest in MARKS:
            support[rest] = getattr(image.server_support, rest)
        else:
            _refuse(path)
    return ImageChange(values=values, set_properties=properties, set_support=support, **whole)


def _refuse(path: str) -> None:
    is_fixed = path.partition(".")[0] in FIXED
    raise InvalidRequest(
        f"{path[:64]!r} cannot be updated" + ("" if is_fixed else ": an image has no such field"),
        reason="FIELD_NOT_UPDATABLE" if is_fixed else "INVALID_REQUEST",
        field="update_mask",
        hint=f"use {', '.join(UPDATABLE)}, tags, properties or properties.KEY, server_support or "
        "server_support.MARK",
    )
