"""CatalogService: what this daemon can do."""

from __future__ import annotations

import imsd
from imsd.core import catalogue
from imsd.core.runtime import Runtime
from imsd.formats.registry import FORMATS
from imsd.guest_messages import os_versions_to_pb
from imsd.v1 import catalog_pb2 as pb
from imsd.v1.catalog_pb2_grpc import CatalogServiceServicer

from . import convert
from .context import Context
from .convert_image_fields import architecture_from_pb


class CatalogServicer(CatalogServiceServicer):
    """Serves ``imsd.v1.CatalogService``; what each call means is written in the .proto file."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def ListFormats(self, _request: pb.ListFormatsRequest, _: Context) -> pb.ListFormatsResponse:
        return pb.ListFormatsResponse(
            formats=[
                pb.Format(
                    disk_format=convert.format_to_pb(known.name),
                    summary=known.summary,
                    can_read=known.can_read,
                    can_write=known.can_write,
                    is_ingested_while_arriving=known.is_streamable,
                    compressions=map(convert.compression_to_pb, known.compressions),
                )
                for known in FORMATS
            ]
        )

    async def ListOsVersions(
        self, request: pb.ListOsVersionsRequest, _: Context
    ) -> pb.ListOsVersionsResponse:
        systems = catalogue.systems(
            architecture_from_pb(request.architecture),
            request.server_type,
            is_uefi_only=request.is_uefi_supported,
        )
        return pb.ListOsVersionsResponse(os_versions=os_versions_to_pb(systems))

    async def GetServiceInfo(self, _request: pb.GetServiceInfoRequest, _: Context) -> pb.ServiceInfo:
        limits = self._runtime.limits
        return pb.ServiceInfo(
            version=imsd.__version__,
            region=self._runtime.region,
            max_virtual_size_bytes=limits.max_virtual_size_bytes,
            max_upload_size_bytes=limits.max_upload_size_bytes,
            upload_part_size_bytes=limits.upload_part_bytes,
            max_running_create_jobs=limits.max_running_create_jobs,
            default_store=self._runtime.stores.default_name,
        )
