"""The parts of the core that keep traces, put together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from imsd.trace_chain import SealKey

from .chain_writer import ChainWriter
from .runtime import Runtime
from .trace_ends import TraceEnds
from .trace_recorder import TraceRecorder
from .trace_upkeep import TraceUpkeep
from .traces import Traces


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceServices:
    recorder: TraceRecorder
    upkeep: TraceUpkeep
    traces: Traces


def trace_services(
    runtime: Runtime, secret: bytes, ends_file: Path | None, retention_days: float
) -> TraceServices:
    """``secret``: the key of seals, see `trace_secret`; ``retention_days`` 0: traces are kept for ever."""
    key = SealKey(secret)
    chains = ChainWriter(key)
    ends = TraceEnds(runtime, chains, ends_file)
    recorder = TraceRecorder(runtime, chains, ends)
    retention = timedelta(days=retention_days) if retention_days else None
    return TraceServices(
        recorder=recorder,
        upkeep=TraceUpkeep(runtime, recorder, ends, key, retention),
        traces=Traces(runtime, key, ends),
    )
