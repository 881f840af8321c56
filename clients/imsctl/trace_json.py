"""Traces and seals as they are printed and exported: the form that their hashes cover.

proto/README.md writes it down; `imsd.trace_chain` computes it.
"""

from __future__ import annotations

from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from imsd.trace_chain import time_text
from imsd.v1 import trace_pb2

from .json_fields import Fields, enum_text


def trace_fields(trace: trace_pb2.Trace) -> Fields:
    return {
        "id": trace.id,
        "project_id": trace.project_id,
        "sequence": trace.sequence,
        "time": _time(trace.time),
        "name": trace.name,
        "service": trace.service,
        "resource_type": trace.resource_type,
        "resource_id": trace.resource_id,
        "resource_name": trace.resource_name,
        "outcome": enum_text(trace_pb2.TraceOutcome, trace.outcome),
        "reason": trace.reason,
        "message": trace.message,
        "caller_kind": trace.caller_kind,
        "caller_id": trace.caller_id,
        "token_id": trace.token_id,
        "peer": trace.peer,
        "method": trace.method,
        "action": trace.action,
        "call_id": trace.call_id,
        "request_id": trace.request_id,
        "job_id": trace.job_id,
        "details": dict(sorted(trace.details.items())),
        "previous_hash": trace.previous_hash,
        "hash": trace.hash,
    }


def seal_fields(seal: trace_pb2.TraceSeal) -> Fields:
    return {
        "project_id": seal.project_id,
        "sequence": seal.sequence,
        "hash": seal.hash,
        "sealed_at": _time(seal.sealed_at),
        "key_id": seal.key_id,
        "mac": seal.mac,
    }


def _time(time: Timestamp) -> str:
    return time_text(time.ToDatetime(UTC))
