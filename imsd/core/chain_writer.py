"""Putting traces at the ends of their chains, and seals on these."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from imsd.metadata import trace_writing
from imsd.metadata.trace_writing import ChainHead
from imsd.trace_chain import Seal, SealKey, Trace

# A chain is sealed with the trace that is so many after its last seal, or so much later. A chain that is
# quiet has every trace sealed at once; of a busy one the newest wait for the next, or for the upkeep.
SEAL_TRACES: Final = 100
SEAL_AGE: Final = timedelta(seconds=10)


class ChainWriter:
    """What it does is done inside a transaction of the one writer, so that chains have no gap and no fork."""

    def __init__(self, key: SealKey) -> None:
        self._key = key

    def append(self, c: Connection, traces: Sequence[Trace], now: datetime) -> None:
        """Write ``traces``, in their order, each at the end of the chain of its project."""
        heads = trace_writing.chain_heads(c, {trace.project_id for trace in traces})
        chained = []
        for trace in traces:
            head = heads.get(trace.project_id, ChainHead())
            placed = trace.chained(head.sequence + 1, head.hash)
            heads[trace.project_id] = replace(
                head, sequence=placed.sequence, hash=placed.hash, oldest_at=head.oldest_at or placed.time
            )
            chained.append(placed)
        due = [project_id for project_id, head in heads.items() if _is_due(head, now)]
        trace_writing.insert_traces(c, chained)
        self._seal(c, heads, due, now)
        trace_writing.save_heads(c, heads)

    def seal(self, c: Connection, project_ids: Collection[str], now: datetime) -> None:
        """Seal chains at their ends."""
        heads = trace_writing.chain_heads(c, project_ids)
        due = [project_id for project_id, head in heads.items() if head.sequence > head.sealed_sequence]
        self._seal(c, heads, due, now)
        trace_writing.save_heads(c, {project_id: heads[project_id] for project_id in due})

    def _seal(self, c: Connection, heads: dict[str, ChainHead], due: Sequence[str], now: datetime) -> None:
        seals: list[Seal] = []
        for project_id in due:
            head = heads[project_id]
            seals.append(self._key.seal(project_id, head.sequence, head.hash, now))
            heads[project_id] = replace(head, sealed_sequence=head.sequence, sealed_at=now)
        trace_writing.insert_seals(c, seals)


def _is_due(head: ChainHead, now: datetime) -> bool:
    is_old = head.sealed_at is None or abs(now - head.sealed_at) >= SEAL_AGE
    return is_old or head.sequence - head.sealed_sequence >= SEAL_TRACES
