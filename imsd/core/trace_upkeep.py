"""What keeps traces in order beside the calls: seals, calls that were interrupted, and old age."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import Connection

from imsd.contract import ImsError
from imsd.metadata import trace_writing, traces
from imsd.trace_chain import REMOVAL, REMOVED_UP_TO, SealKey, Trace, TraceOutcome, time_text

from .caller import THE_DAEMON
from .chain_writer import ChainWriter
from .runtime import Runtime
from .trace_ends import TraceEnds
from .trace_recorder import INTENT_LEASE, MAX_BATCH, TraceRecorder

log = structlog.get_logger(__name__)

INTERVAL_SECONDS: Final = 60.0

# Old traces are removed once a day, so that few traces tell of it.
REMOVAL_STEP: Final = timedelta(days=1)

# In one transaction: rows that go, and chains that are looked at. More rows than lie between two seals.
MAX_REMOVED: Final = 1000
MAX_CHAINS: Final = 500


class TraceUpkeep:
    """``retention`` None: traces are kept for ever."""

    def __init__(
        self,
        runtime: Runtime,
        recorder: TraceRecorder,
        ends: TraceEnds,
        key: SealKey,
        retention: timedelta | None,
    ) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._ends = ends
        self._key = key
        self._chains = ChainWriter(key)
        self._retention = retention
        self._periodic: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Make traces of what the daemon before left unfinished, and go on with the upkeep.

        Returns how many. Call it before a call is let in. Raises FailedPrecondition (INVALID_CONFIGURATION).
        """
        await self._ends.load()
        # A database in a file has no other daemon. One that others use may hold calls that run.
        interrupted = await self._take_over(None if self._is_alone else self._runtime.clock())
        await _attempt("sealing of traces", self.seal())
        await _attempt("comparison of the ends of traces", self._ends.compare())
        await self._compare_keys()
        self._periodic = asyncio.create_task(self._go_on(), name="upkeep of traces")
        return interrupted

    async def stop(self) -> None:
        """Write what is late and seal every chain. Call it when no call runs any more."""
        if self._periodic:
            self._periodic.cancel()
            await asyncio.gather(self._periodic, return_exceptions=True)
        await _attempt("traces that are late", self._recorder.write_late())
        await _attempt("sealing of traces", self.seal())
        await _attempt("comparison of the ends of traces", self._ends.compare())

    async def tick(self) -> None:
        """One round of everything; what fails stops nothing else and is tried again in the next round."""
        now = self._runtime.clock()
        await _attempt("traces that are late", self._recorder.write_late())
        await _attempt("leases of calls", self._renew(now))
        await _attempt("traces of calls that were interrupted", self._take_over(now))
        await _attempt("sealing of traces", self.seal())
        await _attempt("comparison of the ends of traces", self._ends.compare())
        await _attempt("removal of old traces", self.remove_old(now))

    async def seal(self) -> None:
        """Seal every chain that has grown since its last seal."""
        while await self._runtime.database.run(self._seal_some) == MAX_CHAINS:
            pass

    async def remove_old(self, now: datetime) -> int:
        """Remove traces whose time is over, up to one that is sealed; returns how many.

        First a trace says so: who removes traces and has no seal for that does not pass for the daemon.
        """
        if self._retention is None:
            return 0
        before, count = now - self._retention, 0
        async with self._runtime.database.reading() as c:
            due = await traces.projects_with_traces_before(c, before - REMOVAL_STEP, MAX_CHAINS)
        for project_id in due:
            count += await self._remove_of(project_id, before)
        if count:
            log.info("old traces removed", traces=count)
        return count

    async def _remove_of(self, project_id: str, before: datetime) -> int:
        run = self._runtime.database.run
        async with self._runtime.database.reading() as c:
            up_to = await traces.newest_seal_of_old(c, project_id, before)
        if not up_to:
            return 0
        await run(self._note_removal, project_id, up_to, before)
        count = 0
        while removed := await run(traces.remove_traces, project_id, up_to, MAX_REMOVED):
            count += removed
        return count

    def _note_removal(self, c: Connection, project_id: str, up_to: int, before: datetime) -> None:
        now = self._runtime.clock()
        removal = Trace(
            id=self._runtime.new_id(),
            project_id=project_id,
            time=now,
            name=REMOVAL,
            resource_type="trace",
            outcome=TraceOutcome.SUCCEEDED,
            caller_kind=THE_DAEMON.kind.value,
            caller_id=THE_DAEMON.id,
            method="",
            action="",
            details={REMOVED_UP_TO: str(up_to), "before": time_text(before)},
        )
        self._chains.append(c, [removal], now)

    @property
    def _is_alone(self) -> bool:
        return self._runtime.database.is_embedded

    async def _go_on(self) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _renew(self, now: datetime) -> None:
        if not self._is_alone:
            await self._runtime.database.run(
                trace_writing.renew_intents, self._runtime.instance_id, now + INTENT_LEASE
            )

    async def _take_over(self, expired_at: datetime | None) -> int:
        count = 0
        while taken := await self._runtime.database.run(self._take_some, expired_at):
            count += taken
        if count:
            log.warning("calls were interrupted by the end of their daemon", traces=count)
        return count

    async def _compare_keys(self) -> None:
        async with self._runtime.database.reading() as c:
            others = await traces.sealing_keys(c, MAX_CHAINS) - {self._key.id}
        if others:
            log.error(
                "traces were sealed with a key that this daemon has not: their seals cannot be checked",
                keys=sorted(others),
                own_key=self._key.id,
                hint="all daemons of a database need the same file trace-key in their state directories",
            )

    def _seal_some(self, c: Connection) -> int:
        project_ids = trace_writing.unsealed_projects(c, MAX_CHAINS)
        self._chains.seal(c, project_ids, self._runtime.clock())
        return len(project_ids)

    def _take_some(self, c: Connection, expired_at: datetime | None) -> int:
        lost = trace_writing.lost_intents(c, self._runtime.instance_id, expired_at, MAX_BATCH)
        now = self._runtime.clock()
        if lost:
            self._chains.append(c, [_interrupted(trace, now) for trace in lost], now)
            trace_writing.delete_intents(c, [trace.id for trace in lost])
        return len(lost)


def _interrupted(intent: Trace, now: datetime) -> Trace:
    return replace(
        intent,
        time=now,
        outcome=TraceOutcome.INTERRUPTED,
        message="the daemon ended before the outcome was known: the change was made or not",
        details={**intent.details, "began_at": time_text(intent.time)},
    )


async def _attempt(what: str, work: Awaitable[object]) -> None:
    try:
        await work
    except ImsError as error:
        log.warning("upkeep put off", what=what, reason=error.reason, detail=error.message)
    except Exception:
        log.exception("upkeep failed; the next round tries again", what=what)
