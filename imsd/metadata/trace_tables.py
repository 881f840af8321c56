"""The tables of the audit trail: traces, a chain of them for each project, and what is yet to become one."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, String, Table, Text

from .columns import ID, PROJECT_ID, UtcDateTime, metadata

HASH = String(64)

trace = Table(
    "trace",
    metadata,
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("id", ID, nullable=False, unique=True),
    Column("time", UtcDateTime, nullable=False),
    Column("name", String(64), nullable=False),
    Column("resource_type", String(32), nullable=False),
    Column("resource_id", String(255), nullable=False),
    Column("resource_name", String(128), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("caller_kind", String(24), nullable=False),
    Column("caller_id", String(255), nullable=False),
    Column("token_id", ID, nullable=False),
    Column("peer", String(255), nullable=False),
    Column("method", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("call_id", ID, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("job_id", ID, nullable=False),
    Column("details", JSON, nullable=False),
    Column("previous_hash", HASH, nullable=False),
    Column("hash", HASH, nullable=False),
    # Lists are newest first, whatever they are filtered by.
    Index(None, "project_id", "time", "sequence"),
    Index(None, "project_id", "name", "time", "sequence"),
    Index(None, "project_id", "outcome", "time", "sequence"),
    Index(None, "project_id", "caller_id", "time", "sequence"),
    Index(None, "project_id", "resource_type", "time", "sequence"),
    Index(None, "project_id", "resource_id", "time", "sequence"),
    Index(None, "project_id", "request_id", "time", "sequence"),
)

# The newest trace of each project: the next one goes on from here.
trace_chain = Table(
    "trace_chain",
    metadata,
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", HASH, nullable=False),
    Column("sealed_sequence", BigInteger, nullable=False),  # of the newest seal; 0: none
    Column("sealed_at", UtcDateTime, nullable=True),
    Column("oldest_at", UtcDateTime, nullable=True),  # the time of the oldest trace that is kept
    Column(
        "mac", HASH, nullable=False, server_default=""
    ),  # of sequence and hash; empty: of before revision 0011
    Index(None, "oldest_at"),
)

# Calls that run and will leave a trace. One whose daemon lives no more was interrupted.
trace_intent = Table(
    "trace_intent",
    metadata,
    Column("id", ID, primary_key=True),  # that of the trace it becomes
    Column("owner", ID, nullable=False),  # the daemon's instance id
    Column("content", JSON, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),  # renewed while its daemon lives
    Index(None, "owner"),
)

# Up to `sequence` the chain had `hash`: the MAC is made with a key that lies outside the database.
trace_seal = Table(
    "trace_seal",
    metadata,
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", HASH, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("mac", HASH, nullable=False),
    Column("sealed_at", UtcDateTime, nullable=False),
)
