"""Traces as messages, and which of them are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from imsd.core import checks, traces
from imsd.core.trace_text import MAX_ID, MAX_REQUEST_ID
from imsd.core.traces import ExportedTraces
from imsd.metadata.traces import TraceQuery
from imsd.trace_chain import SERVICE, Seal, Trace, TraceOutcome
from imsd.trace_check import ChainCheck
from imsd.v1 import trace_pb2 as pb

from . import convert

OUTCOMES: Final = {
    outcome: pb.TraceOutcome.Value(f"TRACE_OUTCOME_{outcome.name}") for outcome in TraceOutcome
}

MAX_NAMES: Final = 32
MAX_NAME: Final = 64
MAX_RESOURCE_TYPE: Final = 64

# Of one message of an export.
MAX_TRACES: Final = 100
MAX_BYTES: Final = 1 << 20


def trace_to_pb(trace: Trace) -> pb.Trace:
    return pb.Trace(
        id=trace.id,
        project_id=trace.project_id,
        sequence=trace.sequence,
        time=convert.time_to_pb(trace.time),
        name=trace.name,
        service=SERVICE,
        resource_type=trace.resource_type,
        resource_id=trace.resource_id,
        resource_name=trace.resource_name,
        outcome=OUTCOMES[trace.outcome],
        reason=trace.reason,
        message=trace.message,
        caller_kind=trace.caller_kind,
        caller_id=trace.caller_id,
        token_id=trace.token_id,
        peer=trace.peer,
        method=trace.method,
        action=trace.action,
        call_id=trace.call_id,
        request_id=trace.request_id,
        job_id=trace.job_id,
        details=trace.details,
        previous_hash=trace.previous_hash,
        hash=trace.hash,
    )


def seal_to_pb(seal: Seal) -> pb.TraceSeal:
    return pb.TraceSeal(
        project_id=seal.project_id,
        sequence=seal.sequence,
        hash=seal.hash,
        sealed_at=convert.time_to_pb(seal.sealed_at),
        key_id=seal.key_id,
        mac=seal.mac,
    )


def check_to_pb(check: ChainCheck) -> pb.VerifyTracesResponse:
    return pb.VerifyTracesResponse(
        is_intact=check.is_intact,
        traces_checked=check.traces_checked,
        seals_checked=check.seals_checked,
        first_sequence=check.first_sequence,
        last_sequence=check.last_sequence,
        sealed_sequence=check.sealed_sequence,
        problems=check.problems,
    )


def export_to_pb(piece: ExportedTraces) -> Iterator[pb.ExportTracesResponse]:
    """A piece of an export in messages that a client takes; seals come with the traces that they are of."""
    seals = list(piece.seals)
    for batch in _batches([trace_to_pb(trace) for trace in piece.traces]):
        last = batch[-1].sequence
        yield pb.ExportTracesResponse(
            traces=batch, seals=[seal_to_pb(seal) for seal in seals if seal.sequence <= last]
        )
        seals = [seal for seal in seals if seal.sequence > last]
    if seals:  # of traces that were not asked for
        yield pb.ExportTracesResponse(seals=map(seal_to_pb, seals))


def trace_query_from_pb(project_id: str, wanted: pb.TraceFilter) -> TraceQuery:
    """Raises InvalidRequest."""
    if len(wanted.names) > MAX_NAMES:
        checks.refuse("filter", f"{len(wanted.names)} names, but at most {MAX_NAMES} can be asked for")
    query = TraceQuery(
        project_id=traces.trace_project(project_id),
        names=tuple(sorted({checks.text("filter", name, MAX_NAME) for name in wanted.names})),
        outcomes=_outcomes(wanted.outcomes),
        caller_id=checks.text("filter", wanted.caller_id, MAX_ID),
        resource_id=checks.text("filter", wanted.resource_id, MAX_ID),
        resource_type=checks.text("filter", wanted.resource_type, MAX_RESOURCE_TYPE),
        request_id=checks.text("filter", wanted.request_id, MAX_REQUEST_ID),
        from_time=convert.time_from_pb(wanted, "from_time"),
        to_time=convert.time_from_pb(wanted, "to_time"),
    )
    return traces.require_order(query)


def _outcomes(values: Sequence[int]) -> tuple[TraceOutcome, ...]:
    if len(values) > len(OUTCOMES):
        checks.refuse("filter", f"{len(values)} outcomes, but there are only {len(OUTCOMES)}")
    known: dict[int, TraceOutcome] = {number: outcome for outcome, number in OUTCOMES.items()}
    if unknown := [value for value in values if value not in known]:
        checks.refuse("filter", f"{unknown[0]} is no outcome that is known")
    return tuple(sorted({known[value] for value in values}))


def _batches(messages: Iterable[pb.Trace]) -> Iterator[list[pb.Trace]]:
    batch: list[pb.Trace] = []
    size = 0
    for message in messages:
        length = message.ByteSize()
        if batch and (len(batch) == MAX_TRACES or size + length > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += length
    if batch:
        yield batch
