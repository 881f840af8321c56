"""Requests to make images, converted."""

from __future__ import annotations

from imsd.contract import InvalidRequest
from imsd.core.image_copies import NewCopy
from imsd.core.image_exports import NewExport
from imsd.core.image_file import ImageFile
from imsd.core.new_image import NewImage
from imsd.core.sources import Source, SourceKind
from imsd.v1 import image_pb2 as pb

from . import convert
from . import convert_image_fields as fields


def new_image_from_pb(request: pb.CreateImageRequest) -> NewImage:
    _require_source(request)
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
        is_fast=request.is_fast,
        store=request.store,
        key=request.key,
    )


def new_copy_from_pb(request: pb.CopyImageRequest) -> NewCopy:
    return NewCopy(
        image_id=request.image_id,
        name=request.name,
        description=request.description,
        enterprise_project_id=request.enterprise_project_id,
        tags=dict(request.tags),
        store=request.store,
        key=request.key,
    )


def new_export_from_pb(request: pb.ExportImageRequest) -> NewExport:
    return NewExport(
        image_id=request.image_id,
        target=request.target,
        disk_format=convert.format_from_pb(request.disk_format),
        is_fast=request.is_fast,
    )


def registered_file_from_pb(request: pb.RegisterImageRequest) -> ImageFile:
    _require_source(request)
    return ImageFile(
        upload_id=request.upload_id,
        source=_source_from_pb(request),
        expected_sha256=request.expected_sha256,
        store=request.store,
    )


def _require_source(request: pb.CreateImageRequest | pb.RegisterImageRequest) -> None:
    if request.WhichOneof("source") is None:
        raise InvalidRequest(
            "the request names no source", field="source", hint="set upload_id, url, local_path or object"
        )


def _source_from_pb(request: pb.CreateImageRequest | pb.RegisterImageRequest) -> Source | None:
    named = request.WhichOneof("source")
    if named is None or named == "upload_id":
        return None
    return Source(SourceKind(named), getattr(request, named))


def prepared_image_from_pb(request: pb.CreateQueuedImageRequest) -> NewImage:
    return NewImage(
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
        is_protected=request.is_protected,
        kind=fields.kind_from_pb(request.kind),
        family=request.family,
    )
