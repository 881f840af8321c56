"""Traces as a caller sees them: list, get, export, verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from imsd.contract import InvalidRequest, NotFound, run_blocking
from imsd.metadata import traces as rows
from imsd.metadata.traces import TraceQuery
from imsd.trace_chain import Seal, SealKey, Trace
from imsd.trace_check import MAX_PROBLEMS, ChainCheck, Link

from . import checks
from .chain_writer import is_marked, unmarked
from .runtime import Runtime
from .trace_ends import TraceEnds
from .trace_text import SERVICE_CHAIN

# Rows of one read: a snapshot is never held while a client or a processor is waited for.
BATCH: Final = 200

# A trace that is so old has been sealed: chains are sealed every minute.
UNSEALED_AGE: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class ExportedTraces:
    """A piece of an export; ``seals``: those of its traces, and of the one before the first that is kept."""

    traces: Sequence[Trace]
    seals: Sequence[Seal]


class Traces:
    def __init__(self, runtime: Runtime, key: SealKey, ends: TraceEnds) -> None:
        self._runtime = runtime
        self._key = key
        self._ends = ends
        self._verifying = asyncio.Semaphore(1)  # it takes a processor

    async def list(self, query: TraceQuery, page_size: int, page_token: str) -> tuple[Sequence[Trace], str]:
        """A page of traces, newest first, and the token of the next one; large ones make it shorter."""
        limit = checks.page_size(page_size)
        marker = self._runtime.tokens.read(query, page_token)
        after = None
        if marker is not None:
            time, sequence = marker
            assert not isinstance(time, str | int)  # the token is ours
            after = (time, int(sequence))
        async with self._runtime.database.reading() as c:
            found, has_more = await rows.list_traces(c, query, limit, after)
        if not has_more:
            return found, ""
        return found, self._runtime.tokens.make(query, (found[-1].time, str(found[-1].sequence)))

    async def get(self, project_id: str, trace_id: str) -> Trace:
        async with self._runtime.database.reading() as c:
            found = await rows.get_trace(c, project_id, trace_id)
        if found is None:
            raise NotFound(
                f"there is no trace {trace_id} in project {project_id}",
                hint="old traces are removed: look where they were delivered to",
            )
        return found

    async def export(self, query: TraceQuery, after_sequence: int) -> AsyncIterator[ExportedTraces]:
        """All that fit and come after a number, oldest first."""
        async with self._runtime.database.reading() as c:
            first, last = await rows.first_and_last(c, query)
        at = max(after_sequence, first - 1)
        sealed = [at]
        while at < last:
            async with self._runtime.database.reading() as c:
                found = await rows.traces_after(c, query, at, last, BATCH)
                if not found:
                    return
                sealed += [trace.sequence for trace in found]
                seals = await rows.seals_of(c, query.project_id, sealed)
            at, sealed = found[-1].sequence, []
            yield ExportedTraces(found, seals)

    async def verify(self, project_id: str) -> ChainCheck:
        """Recompute the chain of a project and compare it with its seals."""
        async with self._verifying:
            while True:
                check, start = ChainCheck(self._key), await self._first_kept(project_id)
                await self._check(check, project_id)
                # Old traces that were removed meanwhile look like missing ones.
                if check.is_intact or start == await self._first_kept(project_id):
                    return check

    async def _check(self, check: ChainCheck, project_id: str) -> None:
        async with self._runtime.database.reading() as c:
            head = await rows.chain_head(c, project_id)
            seal = None if head.mac else await rows.seal_at(c, project_id, head.sequence)
        everything = TraceQuery(project_id=project_id)
        at = -1
        while at < head.sequence:
            async with self._runtime.database.reading() as c:
                found = await rows.traces_after(c, everything, at, head.sequence, BATCH)
                end = found[-1].sequence if found else head.sequence
                seals = await rows.seals_between(c, project_id, at + 1, end, BATCH + 1)
                if len(seals) > BATCH:  # of traces that are missing
                    end = seals.pop().sequence - 1
                    found = [trace for trace in found if trace.sequence <= end]
            await run_blocking(_check_some, check, found, seals)
            at = end
        check.end(head.sequence, head.hash)
        if not is_marked(self._key, project_id, head, seal):
            check.add_doubt(unmarked(head))
        if doubt := await self._ends.doubt_of(project_id):
            check.add_doubt(doubt)
        await self._check_beyond(check, project_id)
        check.require_seal(self._runtime.clock() - UNSEALED_AGE)

    async def _check_beyond(self, check: ChainCheck, project_id: str) -> None:
        """Nothing stands behind the end, which may have moved on meanwhile."""
        everything, no_end = TraceQuery(project_id=project_id), 1 << 62
        async with self._runtime.database.reading() as c:
            end = (await rows.chain_head(c, project_id)).sequence
            beyond = await rows.traces_after(c, everything, end, no_end, 1)
            seals = await rows.seals_between(c, project_id, end + 1, no_end, MAX_PROBLEMS)
        for trace in beyond:
            check.add_stray(trace.sequence)
        for seal in seals:
            check.add_seal(seal)

    async def _first_kept(self, project_id: str) -> int:
        async with self._runtime.database.reading() as c:
            return (await rows.first_and_last(c, TraceQuery(project_id=project_id)))[0]


def _check_some(check: ChainCheck, found: Collection[Trace], seals: Sequence[Seal]) -> None:
    waiting = list(reversed(seals))
    for trace in found:
        while waiting and waiting[-1].sequence < trace.sequence:
            check.add_seal(waiting.pop())
        check.add(Link.of(trace.fields()))
        while waiting and waiting[-1].sequence == trace.sequence:
            check.add_seal(waiting.pop())
    while waiting:
        check.add_seal(waiting.pop())


def trace_project(value: str) -> str:
    """The project whose traces are asked for, or the chain of what belongs to none. Raises InvalidRequest."""
    return value if value == SERVICE_CHAIN else checks.project_id(value)


def require_order(query: TraceQuery) -> TraceQuery:
    """Raises InvalidRequest for a time that ends before it begins."""
    if query.from_time is not None and query.to_time is not None and query.to_time < query.from_time:
        raise InvalidRequest("to_time is before from_time", field="filter", hint="swap them")
    return query
