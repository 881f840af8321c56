"""`CatalogService` and `DriverService`, as methods."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.v1 import catalog_pb2, driver_pb2
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
