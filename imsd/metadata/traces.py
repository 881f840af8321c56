"""Traces as they are read, and as they go when they are old."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.trace_chain import Seal, Trace, TraceOutcome

from .trace_tables import trace, trace_chain, trace_seal
from .trace_writing import ChainHead

# A page goes on before the trace with this time and number.
TraceMarker = tuple[datetime, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """Which traces of a project; an empty condition fits all. ``from_time`` inclusive, ``to_time`` not."""

    project_id: str
    names: Collection[str] = ()
    outcomes: Collection[TraceOutcome] = ()
    caller_id: str = ""
    resource_id: str = ""
    resource_type: str = ""
    request_id: str = ""
    from_time: datetime | None = None
    to_time: datetime | None = None


async def get_trace(c: AsyncConnection, project_id: str, trace_id: str) -> Trace | None:
    query = select(trace).where(trace.c.id == trace_id, trace.c.project_id == project_id)
    row = (await c.execute(query)).one_or_none()
    return None if row is None else _known(row)


async def list_traces(
    c: AsyncConnection, query: TraceQuery, limit: int, after: TraceMarker | None
) -> list[Trace]:
    """The newest first; ``after``: time and sequence of the last one seen."""
    rows = _fitting(select(trace), query)
    if after is not None:
        here = tuple_(trace.c.time, trace.c.sequence)
        rows = rows.where(here < tuple_(literal(after[0], trace.c.time.type), literal(after[1])))
    rows = rows.order_by(trace.c.time.desc(), trace.c.sequence.desc()).limit(limit)
    return [_known(row) for row in await c.execute(rows)]


async def chain_head(c: AsyncConnection, project_id: str) -> ChainHead:
    row = (await c.execute(select(trace_chain).where(trace_chain.c.project_id == project_id))).one_or_none()
    return ChainHead() if row is None else ChainHead(*row[1:])


async def first_and_last(c: AsyncConnection, query: TraceQuery) -> tuple[int, int]:
    """Between which numbers all traces of the query's time lie; (0, 0) when there is none.

    Numbers and times grow together, but for a clock that was set back: then others lie between them.
    """
    times = TraceQuery(project_id=query.project_id, from_time=query.from_time, to_time=query.to_time)
    found = select(func.min(trace.c.sequence), func.max(trace.c.sequence))
    lowest, highest = (await c.execute(_fitting(found, times))).one()
    return lowest or 0, highest or 0


async def traces_after(
    c: AsyncConnection, query: TraceQuery, after: int, up_to: int, limit: int
) -> list[Trace]:
    """Those with a number above ``after``, ``up_to`` at most, in order."""
    rows = _fitting(select(trace), query).where(trace.c.sequence > after, trace.c.sequence <= up_to)
    return [_known(row) for row in await c.execute(rows.order_by(trace.c.sequence).limit(limit))]


async def seals_between(c: AsyncConnection, project_id: str, first: int, last: int) -> list[Seal]:
    rows = select(trace_seal).where(
        trace_seal.c.project_id == project_id, trace_seal.c.sequence >= first, trace_seal.c.sequence <= last
    )
    return [Seal(**row._mapping) for row in await c.execute(rows.order_by(trace_seal.c.sequence))]


async def sealing_keys(c: AsyncConnection, chains: int) -> set[str]:
    """The ids of the keys that made the newest seals, of so many chains."""
    newest = (trace_seal.c.project_id == trace_chain.c.project_id) & (
        trace_seal.c.sequence == trace_chain.c.sealed_sequence
    )
    rows = select(trace_seal.c.key_id).join(trace_chain, newest).limit(chains)
    return set((await c.execute(rows)).scalars())


async def projects_with_traces_before(c: AsyncConnection, time: datetime, limit: int) -> list[str]:
    query = select(trace_chain.c.project_id).where(trace_chain.c.oldest_at < time)
    return list((await c.execute(query.order_by(trace_chain.c.oldest_at).limit(limit))).scalars())


async def newest_seal_of_old(c: AsyncConnection, project_id: str, before: datetime) -> int:
    """The newest seal up to which every trace is from before a time; 0: none that has such a trace."""
    of_project = trace.c.project_id == project_id
    first, _ = await first_and_last(c, TraceQuery(project_id=project_id))
    kept = (
        await c.execute(select(func.min(trace.c.sequence)).where(of_project, trace.c.time >= before))
    ).scalar()
    sealed = select(func.max(trace_seal.c.sequence)).where(
        trace_seal.c.project_id == project_id, trace_seal.c.sequence >= first
    )
    if kept is not None:
        sealed = sealed.where(trace_seal.c.sequence < kept)
    return (await c.execute(sealed)).scalar() or 0


def remove_traces(c: Connection, project_id: str, up_to: int, limit: int) -> int:
    """Remove the oldest traces, up to a seal; returns how many. Called again, it goes on, until all are gone.

    ``up_to`` is sealed. ``limit``: at most so many, and more than lie between two seals. The last seal
    stays: what is left begins at it.
    """
    of_project = trace.c.project_id == project_id
    first = c.execute(select(func.min(trace.c.sequence)).where(of_project)).scalar()
    if first is None or first > up_to:
        return 0
    of_seals = trace_seal.c.project_id == project_id
    last = min(up_to, first + limit - 1)
    sealed = select(func.max(trace_seal.c.sequence)).where(
        of_seals, trace_seal.c.sequence.between(first, last)
    )
    seal = c.execute(sealed).scalar()
    if seal is None:
        return 0
    count = int(c.execute(delete(trace).where(of_project, trace.c.sequence <= seal)).rowcount)
    c.execute(delete(trace_seal).where(of_seals, trace_seal.c.sequence < seal))
    _save_oldest_time(c, project_id)
    return count


def _save_oldest_time(c: Connection, project_id: str) -> None:
    oldest = select(trace.c.time).where(trace.c.project_id == project_id).order_by(trace.c.sequence).limit(1)
    of_chain = update(trace_chain).where(trace_chain.c.project_id == project_id)
    c.execute(of_chain.values(oldest_at=c.execute(oldest).scalar()))


def _fitting(rows: Select[Any], query: TraceQuery) -> Select[Any]:
    rows = rows.where(trace.c.project_id == query.project_id)
    for column in ("caller_id", "resource_id", "resource_type", "request_id"):
        if value := getattr(query, column):
            rows = rows.where(trace.c[column] == value)
    if query.names:
        rows = rows.where(trace.c.name.in_(list(query.names)))
    if query.outcomes:
        rows = rows.where(trace.c.outcome.in_(list(query.outcomes)))
    if query.from_time is not None:
        rows = rows.where(trace.c.time >= query.from_time)
    if query.to_time is not None:
        rows = rows.where(trace.c.time < query.to_time)
    return rows


def _known(row: Row[Any]) -> Trace:
    columns = dict(row._mapping)
    columns["outcome"] = TraceOutcome(columns["outcome"])
    return Trace(**columns)
