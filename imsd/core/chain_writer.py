"""Putting traces at the ends of their chains, and seals on these."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from imsd.metadata import trace_writing
from imsd.metadata.trace_writing import ChainHead
from imsd.trace_chain import DOUBT, Seal, SealKey, Trace, TraceOutcome

from .caller import THE_DAEMON

# A chain is sealed with the trace that is so many after its last seal, or so much later. A chain that is
# quiet has every trace sealed at once; of a busy one the newest wait for the next, or for the upkeep.
SEAL_TRACES: Final = 100
SEAL_AGE: Final = timedelta(seconds=10)

Heads = dict[str, ChainHead]


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one chain: where it ended, and where it ends."""

    before: ChainHead
    after: ChainHead


class ChainWriter:
    """What it does is done inside a transaction of the one writer, so that chains have no gap and no fork.

    It goes on from an end that does not bear the mark of its key, but says so in the chain first: a seal
    says that the daemons wrote what it covers, or that they doubted it.
    """

    def __init__(self, key: SealKey) -> None:
        self._key = key

    def append(self, c: Connection, traces: Sequence[Trace], now: datetime) -> dict[str, Growth]:
        """Write ``traces``, in their order, each at the end of the chain of its project.

        Returns by project how the chains have grown, which is so when the transaction is committed.
        """
        heads = trace_writing.chain_heads(c, {trace.project_id for trace in traces})
        before = dict(heads)
        self._extend(c, heads, [*self._doubts(c, heads, now), *traces])
        self._seal(c, heads, [project_id for project_id, head in heads.items() if _is_due(head, now)], now)
        trace_writing.save_heads(c, heads)
        return {
            project_id: Growth(before.get(project_id, ChainHead()), head)
            for project_id, head in heads.items()
        }

    def seal(self, c: Connection, project_ids: Collection[str], now: datetime) -> None:
        """Seal chains at their ends."""
        heads = trace_writing.chain_heads(c, project_ids)
        self._extend(c, heads, self._doubts(c, heads, now))
        due = [project_id for project_id, head in heads.items() if head.sequence > head.sealed_sequence]
        self._seal(c, heads, due, now)
        trace_writing.save_heads(c, heads)

    def _extend(self, c: Connection, heads: Heads, traces: Sequence[Trace]) -> None:
        chained = []
        for trace in traces:
            project_id = trace.project_id
            head = heads.get(project_id, ChainHead())
            placed = trace.chained(head.sequence + 1, head.hash)
            heads[project_id] = replace(
                head, sequence=placed.sequence, hash=placed.hash, oldest_at=head.oldest_at or placed.time
            )
            chained.append(placed)
        for project_id in {trace.project_id for trace in traces}:
            head = heads[project_id]
            heads[project_id] = replace(head, mac=self._key.mark(project_id, head.sequence, head.hash))
        trace_writing.insert_traces(c, chained)

    def _doubts(self, c: Connection, heads: Mapping[str, ChainHead], now: datetime) -> list[Trace]:
        found = []
        for project_id, head in heads.items():
            seal = None if head.mac else trace_writing.seal_at(c, project_id, head.sequence)
            if not is_marked(self._key, project_id, head, seal):
                found.append(doubting(project_id, unmarked(head), now))
        return found

    def _seal(self, c: Connection, heads: Heads, due: Sequence[str], now: datetime) -> None:
        seals: list[Seal] = []
        for project_id in due:
            head = heads[project_id]
            seals.append(self._key.seal(project_id, head.sequence, head.hash, now))
            heads[project_id] = replace(head, sealed_sequence=head.sequence, sealed_at=now)
        trace_writing.insert_seals(c, seals)


def is_marked(key: SealKey, project_id: str, head: ChainHead, seal: Seal | None) -> bool:
    """Whether a daemon with ``key`` wrote the newest trace of a chain.

    ``seal``: that of this trace; it stands for the mark where there was none yet.
    """
    if head.mac:
        return hmac.compare_digest(head.mac.encode(), key.mark(project_id, head.sequence, head.hash).encode())
    return not head.sequence or (seal is not None and seal.hash == head.hash and key.holds(seal))


def unmarked(head: ChainHead) -> str:
    return f"trace {head.sequence} was not written by a daemon with this key, nor perhaps others before it"


def doubting(project_id: str, doubt: str, now: datetime) -> Trace:
    """The daemon's own trace of what it found."""
    return Trace(
        id=str(uuid.uuid4()),
        project_id=project_id,
        time=now,
        name=DOUBT,
        resource_type="trace",
        outcome=TraceOutcome.FAILED,
        reason="DATA_LOSS",
        message=doubt,
        caller_kind=THE_DAEMON.kind.value,
        caller_id=THE_DAEMON.id,
        method="",
        action="",
    )


def _is_due(head: ChainHead, now: datetime) -> bool:
    is_old = head.sealed_at is None or abs(now - head.sealed_at) >= SEAL_AGE
    return is_old or head.sequence - head.sealed_sequence >= SEAL_TRACES
