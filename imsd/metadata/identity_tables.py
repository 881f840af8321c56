"""The tables of who may call: projects, users, groups, the roles they have, and API tokens."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, String, Table, Text

from .columns import ID, PROJECT_ID, UtcDateTime, metadata

PRINCIPAL_ID = String(255)

project = Table(
    "project",
    metadata,
    Column("id", PROJECT_ID, primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

# Projects that there were: what they left, such as jobs and traces, must not become another one's.
deleted_project = Table(
    "deleted_project",
    metadata,
    Column("id", PROJECT_ID, primary_key=True),
    Column("deleted_at", UtcDateTime, nullable=False),
)

user_account = Table(
    "user_account",
    metadata,
    Column("id", PRINCIPAL_ID, primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

user_group = Table(
    "user_group",
    metadata,
    Column("id", PRINCIPAL_ID, primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

group_member = Table(
    "group_member",
    metadata,
    Column("group_id", PRINCIPAL_ID, ForeignKey("user_group.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", PRINCIPAL_ID, ForeignKey("user_account.id", ondelete="CASCADE"), primary_key=True),
    Index(None, "user_id"),
)

# project_id "*": in every project.
role_grant = Table(
    "role_grant",
    metadata,
    Column("principal_kind", String(12), primary_key=True),
    Column("principal_id", PRINCIPAL_ID, primary_key=True),
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("role", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "project_id"),
)

# Only the SHA-256 of a token's secret is kept.
api_token = Table(
    "api_token",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", PRINCIPAL_ID, ForeignKey("user_account.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Index(None, "user_id", "created_at", "id"),
    Index(None, "created_at", "id"),
)
