"""StoreService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from dataclasses import asdict

from imsd.core.jobs import Jobs
from imsd.core.stores.store_list import StoreUsageView, StoreView
from imsd.core.stores.store_services import StoreServices
from imsd.v1 import driver_pb2, job_pb2
from imsd.v1 import store_pb2 as pb
from imsd.v1.store_pb2_grpc import StoreServiceServicer

from . import convert
from .context import Context


class StoreServicer(StoreServiceServicer):
    """Serves ``imsd.v1.StoreService``; what each call means is written in the .proto file."""

    def __init__(self, stores: StoreServices, jobs: Jobs) -> None:
        self._stores = stores.list
        self._checks = stores.checks
        self._jobs = jobs

    async def ListStores(self, _request: pb.ListStoresRequest, _: Context) -> pb.ListStoresResponse:
        return pb.ListStoresResponse(stores=map(_store_to_pb, await self._stores.list()))

    async def GetStoreUsage(self, request: pb.GetStoreUsageRequest, _: Context) -> pb.StoreUsage:
        return _usage_to_pb(await self._stores.usage(request.store))

    async def CheckStore(self, request: pb.CheckStoreRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        job_id = await self._checks.start(key, request.store)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))


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
