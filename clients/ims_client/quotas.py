"""`QuotaService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from imsd.v1 import quota_pb2 as pb
from imsd.v1.quota_pb2_grpc import QuotaServiceStub

from .connection import Connection

PAGE_SIZE = 1000

# Every project, for operators.
EVERY_PROJECT = "*"


class QuotaCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/quota.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = QuotaServiceStub(connection.channel)

    async def get(self) -> pb.GetQuotasResponse:
        """The quotas of the project, and how much of each is used."""
        request = pb.GetQuotasRequest(project_id=self._project_id)
        found: pb.GetQuotasResponse = await self._connection.call(self._stub.GetQuotas, request)
        return found

    async def set(self, resource: str, quota: int | None) -> pb.Quota:
        """Give the project a quota of its own, -1 for no limit; None takes it away."""
        request = pb.SetQuotaRequest(
            project_id=self._project_id, resource=resource, quota=quota, is_default=quota is None
        )
        changed: pb.Quota = await self._connection.call(self._stub.SetQuota, request)
        return changed

    async def list_limits(self) -> Sequence[pb.Limit]:
        answer = await self._connection.call(self._stub.ListLimits, pb.ListLimitsRequest())
        return list(answer.limits)

    async def list_usage(
        self,
        begin: datetime | None = None,
        end: datetime | None = None,
        *,
        is_every_project: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[pb.UsageRecord]:
        """What the project used in the hours from ``begin`` to ``end``, page by page; else the last 24."""
        request = pb.ListUsageRequest(
            project_id=EVERY_PROJECT if is_every_project else self._project_id,
            from_time=_stamp(begin),
            to_time=_stamp(end),
            page_size=page_size,
        )
        while True:
            page = await self._connection.call(self._stub.ListUsage, request)
            for record in page.records:
                yield record
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _stamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
