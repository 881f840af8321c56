"""Requests on images, converted: what to make, what to change, what to list."""

from __future__ import annotations

from imsd.contract import InvalidRequest
from imsd.core import checks
from imsd.core.image_copies import NewCopy
from imsd.core.image_exports import NewExport
from imsd.core.images import LISTED, UPDATABLE, ImageChange
from imsd.core.new_image import NewImage
from imsd.core.sources import Source, SourceKind
from imsd.metadata.images import ImageQuery
from imsd.v1 import image_pb2 as pb

from . import convert
from . import convert_image_fields as fields

ORDERS = ("created_at", "updated_at", "name", "virtual_size", "status")


def new_image_from_pb(request: pb.CreateImageRequest) -> NewImage:
    if request.WhichOneof("source") is None:
        raise InvalidRequest(
            "the request names no source", field="source", hint="set upload_id, url, local_path or object"
        )
    return NewImage(
        upload_id=request.upload_id,
        source=_source_from_pb(request),
        expected_sha256=request.expected_sha256,
        name=request.name,
        description=request.description,
        disk_format=convert.format_from_pb(request.disk_format),
        os_version=request.os_version,
        architecture=fields.architecture_from_pb(request.architecture),
        boot_mode=fields.boot_mode_from_pb(request.boot_mode),
        min_disk_gb=request.min_disk_gb,
        min_ram_mb=request.min_ram_mb,
        max_ram_mb=request.max_ram_mb,
        tags=dict(request.tags),
        properties=dict(request.properties),
        kind=fields.kind_from_pb(request.kind),
        server_kind=fields.server_kind_from_pb(request.server_kind),
        os_type=fields.os_type_from_pb(request.os_type),
        license_type=fields.license_type_from_pb(request.license_type),
        family=request.family,
        server_support=fields.server_support_from_pb(request.server_support),
        enterprise_project_id=request.enterprise_project_id,
    )


def new_copy_from_pb(request: pb.CopyImageRequest) -> NewCopy:
    return NewCopy(
        image_id=request.image_id,
        name=request.name,
        description=request.description,
        enterprise_project_id=request.enterprise_project_id,
        tags=dict(request.tags),
    )


def new_export_from_pb(request: pb.ExportImageRequest) -> NewExport:
    return NewExport(
        image_id=request.image_id,
        target=request.target,
        disk_format=convert.format_from_pb(request.disk_format),
        is_fast=request.is_fast,
    )


def _source_from_pb(request: pb.CreateImageRequest) -> Source | None:
    named = request.WhichOneof("source")
    if named is None or named == "upload_id":
        return None
    return Source(SourceKind(named), getattr(request, named))


def image_query_from_pb(request: pb.ListImagesRequest) -> ImageQuery:
    wanted = request.filter
    order, _, direction = (request.order_by or "created_at desc").partition(" ")
    if order not in ORDERS or direction not in ("", "asc", "desc"):
        raise InvalidRequest(
            f"cannot order by {request.order_by[:64]!r}",
            field="order_by",
            hint=f"use one of {', '.join(ORDERS)}, followed by ' desc' or nothing",
        )
    return ImageQuery(
        project_id=checks.project_id(request.project_id),
        name_pattern=checks.text("filter.name", wanted.name, 128),
        statuses=convert.statuses_from_pb(wanted.statuses) or LISTED,
        disk_formats=convert.formats_from_pb(wanted.disk_formats, "filter.disk_formats"),
        tags=checks.tags(wanted.tags),
        order_by=order,
        descending=direction == "desc",
    )


def image_change_from_pb(request: pb.UpdateImageRequest) -> ImageChange:
    """Only what the mask names. Raises InvalidRequest for an unknown or empty mask."""
    if not request.update_mask.paths:
        raise InvalidRequest("update_mask names no field", field="update_mask")
    values: dict[str, object] = {}
    tags = properties = None
    single: dict[str, str] = {}
    for path in request.update_mask.paths:
        if path in UPDATABLE:
            values[path] = getattr(request.image, path)
        elif path == "tags":
            tags = dict(request.image.tags)
        elif path == "properties":
            properties = dict(request.image.properties)
        elif path.startswith("properties."):
            key = path.removeprefix("properties.")
            single[key] = request.image.properties.get(key, "")
        else:
            raise InvalidRequest(
                f"{path[:64]!r} cannot be updated",
                field="update_mask",
                hint=f"use {', '.join(UPDATABLE)}, tags, properties or properties.KEY",
            )
    return ImageChange(values=values, tags=tags, properties=properties, set_properties=single)
