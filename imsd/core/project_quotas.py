"""The quotas of a project as callers see them, and their change by an operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.metadata import quotas as quota_rows

from . import checks, quotas
from .quota_rules import BY_RESOURCE, RULES, QuotaRule
from .runtime import Runtime
from .service_limits import UNLIMITED

MAX_QUOTA = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaView:
    """How much of a resource a project has, may have, and may have by default; -1: no limit."""

    rule: QuotaRule
    used: int
    quota: int
    default: int


class ProjectQuotas:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def get(self, project_id: str) -> tuple[str, Sequence[QuotaView]]:
        """The project, and one view for each resource. Raises InvalidRequest."""
        project_id = checks.project_id(project_id)
        async with self._runtime.database.reading() as c:
            own = await quota_rows.own_quotas(c, project_id)
            views = [await self._view(c, project_id, rule, own.get(rule.resource)) for rule in RULES]
        return project_id, views

    async def set(self, project_id: str, resource: str, quota: int | None) -> QuotaView:
        """Give a project a quota of its own, or with None take it away.

        What is used already stays. Raises InvalidRequest.
        """
        project_id = checks.project_id(project_id)
        rule = BY_RESOURCE.get(resource)
        if rule is None:
            known = ", ".join(BY_RESOURCE)
            checks.refuse("resource", f"there is no quota of {resource[:64]!r}", f"use one of {known}")
        if quota is not None:
            checks.number("quota", quota, UNLIMITED, MAX_QUOTA)
        async with self._runtime.database.transaction() as c:
            await quota_rows.set_quota(c, project_id, resource, quota, self._runtime.clock())
            return await self._view(c, project_id, rule, quota)

    async def _view(self, c: AsyncConnection, project_id: str, rule: QuotaRule, own: int | None) -> QuotaView:
        default = quotas.default_of(self._runtime, rule.resource)
        return QuotaView(
            rule=rule,
            used=await quota_rows.used(c, project_id, rule.resource),
            quota=default if own is None else own,
            default=default,
        )
