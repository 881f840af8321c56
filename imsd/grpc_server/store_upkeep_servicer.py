"""StoreUpkeepService: how much of a store is needed, scrubs, repacking."""

from __future__ import annotations

from imsd.core import checks
from imsd.core.access import Access
from imsd.core.caller import current_caller
from imsd.core.jobs import Jobs
from imsd.core.store_upkeep.repack_jobs import NewRepacking
from imsd.core.store_upkeep.scrub_jobs import NewScrub
from imsd.core.store_upkeep.upkeep import StoreUpkeep
from imsd.v1 import job_pb2
from imsd.v1 import store_upkeep_pb2 as pb
from imsd.v1.store_upkeep_pb2_grpc import StoreUpkeepServiceServicer

from . import convert
from .context import Context
from .convert_space import damage_to_pb, store_space_to_pb


class StoreUpkeepServicer(StoreUpkeepServiceServicer):
    """Serves ``imsd.v1.StoreUpkeepService``; what each call means is written in the .proto file."""

    def __init__(self, upkeep: StoreUpkeep, jobs: Jobs, access: Access) -> None:
        self._upkeep = upkeep
        self._jobs = jobs
        self._access = access

    async def GetStoreSpace(self, request: pb.GetStoreSpaceRequest, _: Context) -> pb.StoreSpace:
        store = self._upkeep.choose(request.store)
        packed = await self._upkeep.space.of_store(store)
        return store_space_to_pb(store, packed, await self._upkeep.scrubs.last(store))

    async def ScrubStore(self, request: pb.ScrubStoreRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, checks.project_id(request.project_id), request.request_id)
        rate = request.bytes_per_second if request.HasField("bytes_per_second") else None
        new = NewScrub(self._upkeep.choose(request.store), rate, request.is_anew)
        job_id = await self._upkeep.scrubs.start(key, new)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def ListScrubDamage(
        self, request: pb.ListScrubDamageRequest, _: Context
    ) -> pb.ListScrubDamageResponse:
        store = self._upkeep.choose(request.store)
        damage, token = await self._upkeep.scrubs.damage(
            self._access, current_caller(), store, request.page_size, request.page_token
        )
        return pb.ListScrubDamageResponse(damage=map(damage_to_pb, damage), next_page_token=token)

    async def RepackStore(self, request: pb.RepackStoreRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, checks.project_id(request.project_id), request.request_id)
        store = self._upkeep.choose(request.store)
        new = NewRepacking(store, request.dead_percent or None, request.is_dry_run)
        job_id = await self._upkeep.repacking.start(key, new)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))
