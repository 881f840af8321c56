"""QuotaService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from imsd.core import checks
from imsd.core.limit_list import limits_in_force
from imsd.core.project_quotas import ProjectQuotas, QuotaView
from imsd.core.runtime import Runtime
from imsd.core.service_limits import LimitRule
from imsd.core.usage import Usage
from imsd.metadata.usage import UsageRecord
from imsd.v1 import quota_pb2 as pb
from imsd.v1.quota_pb2_grpc import QuotaServiceServicer

from .context import Context
from .convert import time_from_pb, time_to_pb


class QuotaServicer(QuotaServiceServicer):
    """Serves ``imsd.v1.QuotaService``; what each call means is written in the .proto file."""

    def __init__(self, runtime: Runtime, usage: Usage) -> None:
        self._runtime = runtime
        self._quotas = ProjectQuotas(runtime)
        self._usage = usage

    async def GetQuotas(self, request: pb.GetQuotasRequest, _: Context) -> pb.GetQuotasResponse:
        project_id, quotas = await self._quotas.get(request.project_id)
        return pb.GetQuotasResponse(project_id=project_id, quotas=map(_quota_to_pb, quotas))

    async def SetQuota(self, request: pb.SetQuotaRequest, _: Context) -> pb.Quota:
        quota = _quota_from_pb(request)
        return _quota_to_pb(await self._quotas.set(request.project_id, request.resource, quota))

    async def ListLimits(self, _request: pb.ListLimitsRequest, _: Context) -> pb.ListLimitsResponse:
        found = limits_in_force(self._runtime.limits)
        return pb.ListLimitsResponse(limits=[_limit_to_pb(rule, value) for rule, value in found])

    async def ListUsage(self, request: pb.ListUsageRequest, _: Context) -> pb.ListUsageResponse:
        begin = time_from_pb(request, "from_time")
        query = self._usage.query(request.project_id, begin, time_from_pb(request, "to_time"))
        records, token = await self._usage.list(query, request.page_size, request.page_token)
        return pb.ListUsageResponse(records=map(_usage_to_pb, records), next_page_token=token)


def _quota_from_pb(request: pb.SetQuotaRequest) -> int | None:
    """The quota of its own that a project gets; None: it has none any more. Raises InvalidRequest."""
    is_given = request.HasField("quota")
    if is_given and request.is_default:
        checks.refuse("quota", "a quota is given, and is to be taken away", "leave out one of the two")
    if not is_given and not request.is_default:
        checks.refuse("quota", "no quota is given", "give one, 0 for none at all, or say is_default")
    return request.quota if is_given else None


def _quota_to_pb(view: QuotaView) -> pb.Quota:
    return pb.Quota(
        resource=view.rule.resource,
        used=view.used,
        quota=view.quota,
        default_quota=view.default,
        summary=view.rule.summary,
        source=view.rule.source,
    )


def _limit_to_pb(rule: LimitRule, value: int) -> pb.Limit:
    return pb.Limit(
        name=rule.name,
        value=value,
        unit=rule.unit,
        summary=rule.summary,
        source=rule.source,
        setting=rule.setting,
    )


def _usage_to_pb(record: UsageRecord) -> pb.UsageRecord:
    return pb.UsageRecord(
        project_id=record.project_id,
        hour=time_to_pb(record.hour),
        resource=record.resource,
        quantity=record.quantity,
    )
