"""`StoreUpkeepService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imsd.v1 import job_pb2
from imsd.v1 import store_upkeep_pb2 as pb
from imsd.v1.store_upkeep_pb2_grpc import StoreUpkeepServiceStub

from .connection import Connection

PAGE_SIZE = 100


class StoreUpkeepCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/store_upkeep.proto``.

    A store without a name is the default one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = StoreUpkeepServiceStub(connection.channel)

    async def space(self, store: str = "") -> pb.StoreSpace:
        """What the packs of a store take, how much of it is needed, and how the last scrub ended."""
        request = pb.GetStoreSpaceRequest(store=store)
        found: pb.StoreSpace = await self._connection.call(self._stub.GetStoreSpace, request)
        return found

    async def scrub(self, request: pb.ScrubStoreRequest) -> job_pb2.Job:
        """Start the job that re-reads a store; the project of this client is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.ScrubStore, request)
        return job

    async def damage(self, store: str = "", page_size: int = PAGE_SIZE) -> AsyncIterator[pb.ScrubDamage]:
        """All that scrubs of a store found, page by page."""
        request = pb.ListScrubDamageRequest(store=store, page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListScrubDamage, request)
            for damage in page.damage:
                yield damage
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def repack(self, request: pb.RepackStoreRequest) -> job_pb2.Job:
        """Start the job that repacks a store; the project of this client is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.RepackStore, request)
        return job
