"""DriverService: which drivers are loaded, and in which state."""

from __future__ import annotations

from imsd.core.driver_list import DriverList
from imsd.core.opened_stores import DriverStatus
from imsd.v1 import driver_pb2 as pb
from imsd.v1.driver_pb2_grpc import DriverServiceServicer

from .context import Context


class DriverServicer(DriverServiceServicer):
    """Serves ``imsd.v1.DriverService``; what each call means is written in the .proto file."""

    def __init__(self, drivers: DriverList) -> None:
        self._drivers = drivers

    async def ListDrivers(self, _request: pb.ListDriversRequest, _: Context) -> pb.ListDriversResponse:
        return pb.ListDriversResponse(drivers=map(_driver_to_pb, await self._drivers.statuses()))


def _driver_to_pb(status: DriverStatus) -> pb.Driver:
    return pb.Driver(
        name=status.name,
        kind=pb.DriverKind.Value(f"DRIVER_KIND_{status.kind.upper()}"),
        instance=status.instance,
        state=pb.DriverState.Value(f"DRIVER_STATE_{status.state.upper()}"),
        detail=status.detail,
        summary=status.summary,
        capabilities=status.capabilities,
        plugin=status.plugin,
        is_default=status.is_default,
        used_bytes=status.used_bytes or 0,
        free_bytes=status.free_bytes or 0,
    )
