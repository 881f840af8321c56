"""`CatalogService` and `DriverService`, as methods."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.v1 import catalog_pb2, driver_pb2, guest_pb2
from imsd.v1.catalog_pb2_grpc import CatalogServiceStub
from imsd.v1.driver_pb2_grpc import DriverServiceStub

from .connection import Connection


class CatalogCalls:
    """What this daemon can do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = CatalogServiceStub(connection.channel)

    async def list_formats(self) -> Sequence[catalog_pb2.Format]:
        request = catalog_pb2.ListFormatsRequest()
        answer = await self._connection.call(self._stub.ListFormats, request)
        return list(answer.formats)

    async def list_os_versions(
        self,
        architecture: guest_pb2.Architecture.ValueType = guest_pb2.ARCHITECTURE_UNSPECIFIED,
        server_type: str = "",
        *,
        is_uefi_supported: bool = False,
    ) -> Sequence[guest_pb2.OsVersion]:
        """The supported operating systems that fit every condition; what is not given fits all."""
        request = catalog_pb2.ListOsVersionsRequest(
            architecture=architecture, server_type=server_type, is_uefi_supported=is_uefi_supported
        )
        answer = await self._connection.call(self._stub.ListOsVersions, request)
        return list(answer.os_versions)

    async def service_info(self) -> catalog_pb2.ServiceInfo:
        """Version, region and limits."""
        request = catalog_pb2.GetServiceInfoRequest()
        answer: catalog_pb2.ServiceInfo = await self._connection.call(self._stub.GetServiceInfo, request)
        return answer


class DriverCalls:
    """Which drivers are loaded, and in which state."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = DriverServiceStub(connection.channel)

    async def list(self) -> Sequence[driver_pb2.Driver]:
        answer = await self._connection.call(self._stub.ListDrivers, driver_pb2.ListDriversRequest())
        return list(answer.drivers)
