"""`StoreService`, as methods."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.v1 import job_pb2
from imsd.v1 import store_pb2 as pb
from imsd.v1.store_pb2_grpc import StoreServiceStub

from .connection import Connection


class StoreCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/store.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = StoreServiceStub(connection.channel)

    async def list(self) -> Sequence[pb.Store]:
        answer = await self._connection.call(self._stub.ListStores, pb.ListStoresRequest())
        return list(answer.stores)

    async def usage(self, store: str = "") -> pb.StoreUsage:
        """What imsd keeps in a store; of the default store if none is named."""
        request = pb.GetStoreUsageRequest(store=store)
        usage: pb.StoreUsage = await self._connection.call(self._stub.GetStoreUsage, request)
        return usage

    async def check(self, store: str = "", request_id: str = "") -> job_pb2.Job:
        """Start the job that tries on a store, the default one if none is named, what drivers promise."""
        request = pb.CheckStoreRequest(project_id=self._project_id, store=store, request_id=request_id)
        job: job_pb2.Job = await self._connection.call(self._stub.CheckStore, request)
        return job
