"""What a project may have: quotas, hard because they are counted in the transaction that uses them.

All writes of all daemons go through one writer at a time (`Database.transaction`), so nobody adds anything
between the count and the commit; and what a transaction that fails had reserved is free again with it.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import LimitExceeded
from imsd.metadata import quotas as quota_rows

from .quota_rules import BY_RESOURCE, STAGED_BYTES
from .runtime import Runtime
from .service_limits import UNLIMITED


async def quota_of(c: AsyncConnection, runtime: Runtime, project_id: str, resource: str) -> int:
    """The quota of a project, its own or the default; `UNLIMITED` for none."""
    own = await quota_rows.get_quota(c, project_id, resource)
    return default_of(runtime, resource) if own is None else own


def default_of(runtime: Runtime, resource: str) -> int:
    """The quota of projects that have none of their own."""
    if resource == STAGED_BYTES:
        return runtime.limits.staging_quota_bytes
    return runtime.limits.quotas.get(resource, BY_RESOURCE[resource].default)


async def room(c: AsyncConnection, runtime: Runtime, project_id: str, resource: str) -> int | None:
    """How many more a project may have, 0 or more; None: any number."""
    quota = await quota_of(c, runtime, project_id, resource)
    if quota == UNLIMITED:
        return None
    return max(0, quota - await quota_rows.used(c, project_id, resource))


async def reserve(
    c: AsyncConnection, runtime: Runtime, project_id: str, resource: str, count: int = 1
) -> None:
    """Room for ``count`` more, in the transaction that makes them: call it before they are there.

    Raises LimitExceeded (QUOTA_EXCEEDED, with the resource as its field).
    """
    quota = await quota_of(c, runtime, project_id, resource)
    if quota == UNLIMITED:
        return
    used = await quota_rows.used(c, project_id, resource)
    if used + count > quota:
        rule = BY_RESOURCE[resource]
        raise LimitExceeded(
            f"project {project_id} would have {used + count} {rule.what}, more than its quota of {quota}",
            reason="QUOTA_EXCEEDED",
            field=resource,
            hint=rule.way_out,
        )
