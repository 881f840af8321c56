"""The tables of what projects may have and what they used."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table

from .columns import PROJECT_ID, UtcDateTime, metadata

# What a project may have, where that is not the default. -1: no limit.
quota_override = Table(
    "quota_override",
    metadata,
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("resource", String(64), primary_key=True),
    Column("quota", BigInteger, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

# How much of one thing a project used in an hour, which begins at `hour`.
usage_record = Table(
    "usage_record",
    metadata,
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("hour", UtcDateTime, primary_key=True),
    Column("resource", String(64), primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    Index(None, "hour", "project_id", "resource"),
)
