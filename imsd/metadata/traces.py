"""Traces as they are read, and as they go when they are old."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    Select,
    Text,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.trace_chain import Seal, Trace, TraceOutcome

from .rows import in_batches
from .trace_tables import trace, trace_chain, trace_seal
from .trace_writing import ChainHead


class ChainEnd(NamedTuple):
    """Of the newest trace of a chain."""

    sequence: int
    hash: str


# Of the details of traces that are read at once: one has up to twelve thousand characters, and many calls
# read at the same time.
MAX_LENGTH = 1 << 19

# Of several chains in one statement, each two variables: two equalities, for SQLite answers a list of pairs
# by a look at the whole table.
PLACES_AT_ONCE = 100

_ENDS = select(trace_chain.c.project_id, trace_chain.c.sequence, trace_chain.c.hash)

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
) -> tuple[list[Trace], bool]:
    """The newest first, no more than are kept in memory at once, and whether there are others.

    ``after``: time and sequence of the last one seen.
    """
    rows = _fitting(select(trace), query)
    if after is not None:
        here = tuple_(trace.c.time, trace.c.sequence)
        rows = rows.where(here < tuple_(literal(after[0], trace.c.time.type), literal(after[1])))
    rows = rows.order_by(trace.c.time.desc(), trace.c.sequence.desc())
    lengths = await _lengths(c, rows, limit + 1)
    count = min(_count_that_fits(lengths), limit)
    return [_known(row) for row in await c.execute(rows.limit(count))], count < len(lengths)


async def chain_head(c: AsyncConnection, project_id: str) -> ChainHead:
    row = (await c.execute(select(trace_chain).where(trace_chain.c.project_id == project_id))).one_or_none()
    return ChainHead() if row is None else ChainHead(*row[1:])


async def seal_at(c: AsyncConnection, project_id: str, sequence: int) -> Seal | None:
    found = await seals_between(c, project_id, sequence, sequence, 1)
    return found[0] if found else None


async def chain_ends(c: AsyncConnection, after: str, limit: int) -> dict[str, ChainEnd]:
    """Of the chains of projects with an id behind ``after``, in order."""
    query = _ENDS.where(trace_chain.c.project_id > after).order_by(trace_chain.c.project_id).limit(limit)
    return {row.project_id: ChainEnd(row.sequence, row.hash) for row in await c.execute(query)}


async def ends_of(c: AsyncConnection, project_ids: Collection[str]) -> dict[str, ChainEnd]:
    """Of chains that there are. At most 500 at once."""
    query = _ENDS.where(trace_chain.c.project_id.in_(list(project_ids)))
    return {row.project_id: ChainEnd(row.sequence, row.hash) for row in await c.execute(query)}


async def hashes_at(c: AsyncConnection, places: Mapping[str, ChainEnd]) -> dict[str, str]:
    """By project, the hash of the trace with the number in ``places``, or of its seal if it was removed.

    Those of which nothing is left are not in it.
    """
    found: dict[str, str] = {}
    for table in (trace_seal, trace):
        for batch in in_batches(list(places.items()), PLACES_AT_ONCE):
            at = [
                (table.c.project_id == project_id) & (table.c.sequence == end.sequence)
                for project_id, end in batch
            ]
            rows = select(table.c.project_id, table.c.hash).where(or_(*at))
            found |= {row.project_id: row.hash for row in await c.execute(rows)}
    return found


async def first_and_last(c: AsyncConnection, query: TraceQuery) -> tuple[int, int]:
    """Between which numbers all traces of the query's time lie; (0, 0) when there is none.

    Numbers and times grow together, but for a clock that was set back: then others lie between them.
    """
    times = TraceQuery(project_id=query.project_id, from_time=query.from_time, to_time=query.to_time)
    # Each on its own is the first entry of an index; together they would be a look at all of it.
    ends = [_fitting(select(end(trace.c.sequence)), times).scalar_subquery() for end in (func.min, func.max)]
    lowest, highest = (await c.execute(select(*ends))).one()
    return lowest or 0, highest or 0


async def traces_after(
    c: AsyncConnection, query: TraceQuery, after: int, up_to: int, limit: int
) -> list[Trace]:
    """Those with a number above ``after``, ``up_to`` at most, in order: the first of them.

    As many as ``limit`` says and are kept in memory at once; none if there are none.
    """
    rows = _fitting(select(trace), query).where(trace.c.sequence > after, trace.c.sequence <= up_to)
    rows = rows.order_by(trace.c.sequence)
    count = _count_that_fits(await _lengths(c, rows, limit))
    return [_known(row) for row in await c.execute(rows.limit(count))]


async def _lengths(c: AsyncConnection, rows: Select[Any], limit: int) -> list[int]:
    """Of the details of each, as they are stored: all else of a trace is short."""
    length = func.length(cast(trace.c.details, Text))
    return list((await c.execute(rows.with_only_columns(length).limit(limit))).scalars())


def _count_that_fits(lengths: Sequence[int]) -> int:
    """How many of them are read at once; one always is."""
    count = total = 0
    for length in lengths:
        total += length
        if count and total > MAX_LENGTH:
            break
        count += 1
    return count


async def seals_of(c: AsyncConnection, project_id: str, sequences: Collection[int]) -> list[Seal]:
    """Of these traces, in order; some hundred at most."""
    rows = select(trace_seal).where(
        trace_seal.c.project_id == project_id, trace_seal.c.sequence.in_(list(sequences))
    )
    return [Seal(**row._mapping) for row in await c.execute(rows.order_by(trace_seal.c.sequence))]


async def seals_between(c: AsyncConnection, project_id: str, first: int, last: int, limit: int) -> list[Seal]:
    """The first of them."""
    rows = select(trace_seal).where(
        trace_seal.c.project_id == project_id, trace_seal.c.sequence >= first, trace_seal.c.sequence <= last
    )
    return [
        Seal(**row._mapping) for row in await c.execute(rows.order_by(trace_seal.c.sequence).limit(limit))
    ]


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
