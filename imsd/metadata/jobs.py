"""Jobs: their rows, their leases and fences, and their way from state to state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import Conflict

from .not_by_index import not_by_index
from .records import JobKind, JobRecord, JobState
from .rows import Marker, beyond, in_batches, plain, to_row
from .states import JOB_NEXT_STATES, require_move
from .tables import job

UNFINISHED_STATES = tuple(state for state, following in JOB_NEXT_STATES.items() if following)
FINAL_STATES = tuple(state for state, following in JOB_NEXT_STATES.items() if not following)
HELD_STATES = (JobState.RUNNING, JobState.CANCELLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs of a project; an empty condition fits all."""

    project_id: str
    states: Collection[JobState] = ()
    kinds: Collection[JobKind] = ()
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Where a running job stands: bytes of the phase, percent of the whole job."""

    job_id: str
    fence: int
    phase: str
    bytes_done: int
    bytes_total: int
    percent: float


async def insert_job(c: AsyncConnection, record: JobRecord) -> None:
    await c.execute(insert(job).values(to_row(record)))


async def get_job(c: AsyncConnection, project_id: str, job_id: str) -> JobRecord | None:
    query = select(job).where(job.c.id == job_id, job.c.project_id == project_id)
    return _record((await c.execute(query)).one_or_none())


async def list_jobs(c: AsyncConnection, query: JobQuery, limit: int, after: Marker | None) -> list[JobRecord]:
    """The newest first; ``after``: creation time and id of the last one seen."""
    rows = select(job).where(job.c.project_id == query.project_id)
    if query.states:
        rows = rows.where(job.c.state.in_(list(query.states)))
    if query.kinds:
        rows = rows.where(job.c.kind.in_(list(query.kinds)))
    if query.image_id:
        rows = rows.where(job.c.image_id == query.image_id)
    if after is not None:
        rows = rows.where(beyond(job.c.created_at, job.c.id, after, descending=True))
    rows = rows.order_by(job.c.created_at.desc(), job.c.id.desc()).limit(limit)
    return [_known(row) for row in await c.execute(rows)]


async def sub_jobs(c: AsyncConnection, parent_ids: Collection[str]) -> list[JobRecord]:
    """The jobs that these jobs have in hand, in the order in which they were made."""
    found: list[JobRecord] = []
    for batch in in_batches(list(parent_ids)):
        rows = select(job).where(job.c.parent_job_id.in_(batch)).order_by(job.c.created_at, job.c.id)
        found += [_known(row) for row in await c.execute(rows)]
    return found


async def unfinished_jobs(c: AsyncConnection, kind: JobKind | None = None) -> list[JobRecord]:
    """The jobs of all projects that are not in a final state, the oldest first; of a kind, or of all."""
    rows = select(job).where(job.c.state.in_(UNFINISHED_STATES)).order_by(job.c.created_at, job.c.id)
    if kind is not None:
        rows = rows.where(job.c.kind == kind)
    return [_known(row) for row in await c.execute(rows)]


async def is_unfinished(c: AsyncConnection, job_id: str) -> bool:
    query = select(job.c.id).where(job.c.id == job_id, job.c.state.in_(UNFINISHED_STATES))
    return (await c.execute(query)).one_or_none() is not None


async def ended_at(c: AsyncConnection, job_id: str) -> datetime | None:
    """When a job came to its end; None while it has not, and when it is not known any more."""
    query = select(job.c.finished_at).where(job.c.id == job_id, job.c.state.in_(FINAL_STATES))
    return (await c.execute(query)).scalar_one_or_none()


async def claim_job(
    c: AsyncConnection,
    job_id: str,
    owner: str,
    lease_until: datetime,
    now: datetime,
    *,
    ignore_leases: bool = False,
) -> JobRecord | None:
    """Become the one who runs a job whose lease is free, over at ``now`` or the claimer's own.

    ``ignore_leases``: the caller knows that nobody else runs jobs of this database.
    The fence grows, so whoever ran it before can change nothing any more. INIT becomes RUNNING;
    CANCELLING stays, for its clean-up. None when the job is final, missing or held by another.
    """
    is_free: ColumnElement[bool] = or_(
        job.c.owner == "", job.c.owner == owner, job.c.lease_until.is_(None), job.c.lease_until <= now
    )
    if ignore_leases:
        is_free = true()
    is_cancelling = job.c.state == JobState.CANCELLING
    claim = (
        update(job)
        .where(job.c.id == job_id, job.c.state.in_(UNFINISHED_STATES), is_free)
        .values(
            owner=owner,
            lease_until=lease_until,
            fence=job.c.fence + 1,
            attempt=case((is_cancelling, job.c.attempt), else_=job.c.attempt + 1),
            state=case((is_cancelling, job.c.state), else_=JobState.RUNNING),
            started_at=func.coalesce(job.c.started_at, now),
        )
        .returning(job)
    )
    return _record((await c.execute(claim)).one_or_none())


async def move_job(
    c: AsyncConnection,
    job_id: str,
    from_states: Collection[JobState],
    to_state: JobState,
    *,
    fence: int | None,
    values: Mapping[str, object],
) -> JobRecord | None:
    """Change the state, and ``values`` with it, of a job in one of ``from_states``; None if it is not.

    With ``fence``, only if nobody claimed it since. A final job belongs to nobody: owner and lease are
    cleared. Raises ValueError for a move outside `JOB_NEXT_STATES`.
    """
    require_move(JOB_NEXT_STATES, from_states, to_state)
    ending = {} if JOB_NEXT_STATES[to_state] else {"owner": "", "lease_until": None}
    columns = ending | {key: plain(value) for key, value in values.items()}
    change = update(job).where(job.c.id == job_id, job.c.state.in_(list(from_states)))
    if fence is not None:
        change = change.where(job.c.fence == fence)
    row = (await c.execute(change.values(**columns, state=to_state).returning(job))).one_or_none()
    return _record(row)


async def save_progress(c: AsyncConnection, rows: Sequence[JobProgress], lease_until: datetime) -> None:
    """Write where jobs stand and renew their leases; rows of jobs taken over or final are left alone.

    ``percent`` of a row never falls.
    """
    if not rows:
        return
    percent = bindparam("new_percent", type_=job.c.percent.type)
    change = (
        update(job)
        .where(
            job.c.id == bindparam("job_id", type_=job.c.id.type),
            job.c.fence == bindparam("held_fence", type_=job.c.fence.type),
            or_(*[job.c.state == state for state in HELD_STATES]),  # IN is not for many rows at once
        )
        .values(
            phase=bindparam("new_phase"),
            bytes_done=bindparam("new_done"),
            bytes_total=bindparam("new_total"),
            percent=case((job.c.percent > percent, job.c.percent), else_=percent),
            lease_until=lease_until,
        )
    )
    await c.execute(change, [_progress_row(row) for row in rows])


async def note_result(c: AsyncConnection, job_id: str, result: Mapping[str, Any]) -> None:
    """What a job that goes on will have made; who calls has checked its fence."""
    await c.execute(update(job).where(job.c.id == job_id).values(result=dict(result)))


async def forget_jobs(c: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete the rows of at most ``limit`` jobs that ended before a time; returns how many."""
    ended = select(job.c.id).where(not_by_index(job.c.state).in_(FINAL_STATES), job.c.finished_at < before)
    return int((await c.execute(delete(job).where(job.c.id.in_(ended.limit(limit))))).rowcount)


async def require_fence(c: AsyncConnection, job_id: str, fence: int) -> None:
    """Raises Conflict unless the job runs, or is being cleaned up, with this very fence."""
    held = and_(job.c.id == job_id, job.c.fence == fence, job.c.state.in_(HELD_STATES))
    if (await c.execute(select(job.c.id).where(held))).one_or_none() is None:
        raise Conflict(f"job {job_id} was taken over or has ended", hint="let its newer run go on")


def _progress_row(progress: JobProgress) -> dict[str, object]:
    values = asdict(progress)
    return {
        "job_id": values["job_id"],
        "held_fence": values["fence"],
        "new_phase": values["phase"],
        "new_done": values["bytes_done"],
        "new_total": values["bytes_total"],
        "new_percent": values["percent"],
    }


def _record(row: Row[Any] | None) -> JobRecord | None:
    return None if row is None else _known(row)


def _known(row: Row[Any]) -> JobRecord:
    columns = dict(row._mapping)
    columns["state"] = JobState(columns["state"])
    columns["kind"] = JobKind(columns["kind"])
    return JobRecord(**columns)
