"""The tables of keys, and of the data keys that they wrap. No key is in them, and no data key unwrapped."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, Text

from .columns import ID, PROJECT_ID, UtcDateTime, metadata

# ``version`` 0: not yet made in its key service. ``state``: as it was last known.
encryption_key = Table(
    "encryption_key",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", PROJECT_ID, nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("key_service", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("delete_at", UtcDateTime),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "name"),
    Index(None, "state", "delete_at"),
)

# One for each encrypted image, from the moment on when its upload is opened; ``key_version`` wraps it.
data_key = Table(
    "data_key",
    metadata,
    Column("image_id", ID, primary_key=True),
    Column("key_id", ID, nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "key_id", "image_id"),
)
