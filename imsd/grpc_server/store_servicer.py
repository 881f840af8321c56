"""StoreService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from dataclasses import asdict

from imsd.core.stores.store_list import Stores, StoreUsageView, StoreView
from imsd.v1 import driver_pb2
from imsd.v1 import store_pb2 as pb
from imsd.v1.store_pb2_grpc import StoreServiceServicer

from .context import Context


class StoreServicer(StoreServiceServicer):
    """Serves ``imsd.v1.StoreService``; what each call means is written in the .proto file."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def ListStores(self, _request: pb.ListStoresRequest, _: Context) -> pb.ListStoresResponse:
        return pb.ListStoresResponse(stores=map(_store_to_pb, await self._stores.list()))

    async def GetStoreUsage(self, request: pb.GetStoreUsageRequest, _: Context) -> pb.StoreUsage:
        return _usage_to_pb(await self._stores.usage(request.store))


def _store_to_pb(view: StoreView) -> pb.Store:
    return pb.Store(
        name=view.name,
        driver=view.driver,
        state=driver_pb2.DriverState.Value(f"DRIVER_STATE_{view.state.upper()}"),
        detail=view.detail,
        is_default=view.is_default,
        capabilities=view.capabilities,
        used_bytes=view.used_bytes or 0,
        free_bytes=view.free_bytes or 0,
        image_count=view.things.image_count,
        stored_bytes=view.things.stored_bytes,
    )


def _usage_to_pb(view: StoreUsageView) -> pb.StoreUsage:
    projects = [pb.ProjectShare(**asdict(part)) for part in view.projects]
    return pb.StoreUsage(
        store=view.name, **asdict(view.things), projects=projects, project_count=view.project_count
    )
