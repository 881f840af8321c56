"""A daemon as far as its traces go, with a clock that only the test moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from imsd.core.chain_writer import ChainWriter
from imsd.core.runtime import Runtime
from imsd.core.trace_ends import TraceEnds
from imsd.core.trace_recorder import TraceRecorder
from imsd.core.trace_upkeep import TraceUpkeep
from imsd.core.traces import Traces
from imsd.metadata.database import Database
from imsd.metadata.trace_tables import trace, trace_intent, trace_seal
from imsd.metadata.traces import TraceQuery
from imsd.trace_chain import SealKey, Trace, TraceOutcome
from imsd.trace_check import ChainCheck
from tests.unit.traces.samples_of_traces import KEY, START, a_trace

GUARDED = (trace.name, trace_seal.name)


class World:
    def __init__(
        self,
        runtime: Runtime,
        key: SealKey = KEY,
        retention: timedelta | None = None,
        ends: Path | None = None,
    ) -> None:
        self.now = START
        self.runtime = replace(runtime, clock=lambda: self.now)
        self.ends = TraceEnds(self.runtime, ChainWriter(key), ends)
        self.recorder = TraceRecorder(self.runtime, ChainWriter(key), self.ends)
        self.upkeep = TraceUpkeep(self.runtime, self.recorder, self.ends, key, retention)
        self.traces = Traces(self.runtime, key, self.ends)

    @property
    def database(self) -> Database:
        return self.runtime.database

    def later(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now

    async def call(self, **values: Any) -> Trace:
        """A call from its beginning to its end."""
        begun = await self.recorder.begin(a_trace(outcome=TraceOutcome.INTERRUPTED, time=self.now, **values))
        ended = replace(begun, outcome=TraceOutcome.SUCCEEDED, time=self.now)
        await self.recorder.end(ended, has_intent=True)
        return ended

    async def written(self, project_id: str = "lab") -> list[Trace]:
        """Oldest first."""
        found, _ = await self.traces.list(TraceQuery(project_id=project_id), 1000, "")
        return sorted(found, key=lambda each: each.sequence)

    async def intents(self) -> int:
        async with self.database.reading() as c:
            return len((await c.execute(select(trace_intent.c.id))).all())

    async def seals(self, project_id: str = "lab") -> list[int]:
        query = select(trace_seal.c.sequence).where(trace_seal.c.project_id == project_id)
        async with self.database.reading() as c:
            return list((await c.execute(query.order_by(trace_seal.c.sequence))).scalars())

    async def verify(self, project_id: str = "lab") -> ChainCheck:
        return await self.traces.verify(project_id)

    async def tamper(self, *statements: Any) -> None:
        """As somebody who may do anything with the database, but has not the key."""
        async with self.database.transaction() as c:
            for before in _unguarded(c.dialect.name):
                await c.execute(text(before))
            for statement in statements:
                await c.execute(text(statement) if isinstance(statement, str) else statement)
            if c.dialect.name == "postgresql":  # one database for all tests
                for table in GUARDED:
                    await c.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


def _unguarded(dialect: str) -> list[str]:
    if dialect == "postgresql":
        return [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in GUARDED]
    return [f"DROP TRIGGER IF EXISTS {table}_{event}" for table in GUARDED for event in ("update", "delete")]
