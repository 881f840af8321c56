"""The tables, for SQLite and PostgreSQL alike. `migrations/` brings a database to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite drops the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


ID = String(36)

image = Table(
    "image",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", String(64), nullable=False),
    Column("region", String(64), nullable=False),
    Column("origin_image_id", ID, nullable=False),
    Column("name", String(128), nullable=False),
    Column("description", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("disk_format", String(16), nullable=False),
    Column("virtual_size", BigInteger, nullable=False),
    Column("data_size", BigInteger, nullable=False),
    Column("stored_size", BigInteger, nullable=False),
    Column("new_size", BigInteger, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("min_disk_gb", Integer, nullable=False),
    Column("min_ram_mb", Integer, nullable=False),
    Column("max_ram_mb", Integer, nullable=False),
    Column("os_version", String(255), nullable=False),
    Column("architecture", String(8), nullable=False, server_default=""),
    Column("boot_mode", String(8), nullable=False, server_default=""),
    Column("is_protected", Boolean, nullable=False),
    Column("properties", JSON, nullable=False),
    Column("findings", JSON, nullable=False),
    Column("guest", JSON, nullable=False, server_default="{}"),
    Column("store", String(64), nullable=False),
    Column("job_id", ID, nullable=False),
    Column("manifest_id", ID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("active_at", UtcDateTime),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "updated_at", "id"),
    Index(None, "project_id", "name", "id"),
    Index(None, "project_id", "virtual_size", "id"),
    Index(None, "project_id", "status", "id"),
    # One name, status or format in the default order: read from the index, page by page.
    Index(None, "project_id", "name", "created_at", "id"),
    Index(None, "project_id", "status", "created_at", "id"),
    Index(None, "project_id", "disk_format", "created_at", "id"),
)

image_tag = Table(
    "image_tag",
    metadata,
    Column("image_id", ID, ForeignKey("image.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(36), primary_key=True),
    Column("value", String(43), nullable=False),
    Index(None, "key", "value", "image_id"),
)

job = Table(
    "job",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(32), nullable=False),
    Column("bytes_done", BigInteger, nullable=False),
    Column("bytes_total", BigInteger, nullable=False),
    Column("percent", Float, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    Column("error_reason", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("error_hint", Text, nullable=False),
    Column("image_id", ID, nullable=False),
    Column("upload_id", ID, nullable=False),
    Column("parent_job_id", ID, nullable=False),
    Column("owner", ID, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("lease_until", UtcDateTime),
    Column("attempt", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "state", "created_at", "id"),
    Index(None, "image_id"),
    Index(None, "parent_job_id"),
)

upload = Table(
    "upload",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("store", String(64), nullable=False),
    Column("file_name", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("disk_format", String(16), nullable=False),
    Column("expected_sha256", String(64), nullable=False),
    Column("fingerprint", String(128), nullable=False),
    Column("committed_offset", BigInteger, nullable=False),
    Column("is_direct", Boolean),
    Column("fence", Integer, nullable=False),
    Column("staged_bytes", BigInteger, nullable=False),
    Column("tree_state", LargeBinary, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("job_id", ID, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "fingerprint", "created_at", "id"),
    Index(None, "expires_at"),
)

upload_part = Table(
    "upload_part",
    metadata,
    Column("upload_id", ID, ForeignKey("upload.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
)

# request_id -> what it made, so that a repeated request gets the first answer.
request = Table(
    "request",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # of the request's content
    Column("resource_id", ID, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "created_at"),
)

# One row: the random name of this database. Stores bear it, so that no other database sweeps them.
service = Table(
    "service",
    metadata,
    Column("id", ID, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)

# state: writing | live | condemned
pack = Table(
    "pack",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("store", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "store", "state", "id"),
)

manifest = Table(
    "manifest",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("store", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "store", "state", "id"),
)

# Who holds a pack: jobs, uploads, manifests.
pack_reference = Table(
    "pack_reference",
    metadata,
    Column("pack_id", String(32), ForeignKey("pack.id"), primary_key=True),
    Column("holder_kind", String(16), primary_key=True),
    Column("holder_id", ID, primary_key=True),
    Index(None, "holder_kind", "holder_id"),
)

# Who holds a manifest: images, jobs, readers.
manifest_holder = Table(
    "manifest_holder",
    metadata,
    Column("manifest_id", String(32), ForeignKey("manifest.id"), primary_key=True),
    Column("holder_kind", String(16), primary_key=True),
    Column("holder_id", ID, primary_key=True),
    Index(None, "holder_kind", "holder_id"),
)

# The dedup index. The domain limits look-ups, not references.
chunk = Table(
    "chunk",
    metadata,
    Column("domain", String(64), primary_key=True),
    Column("digest", LargeBinary(32), primary_key=True),
    Column("pack_id", String(32), ForeignKey("pack.id"), nullable=False),
    Column("pack_offset", Integer, nullable=False),
    Column("stored_length", Integer, nullable=False),
    Column("length", Integer, nullable=False),
    Column("codec", Integer, nullable=False),
    Column("stored_check", LargeBinary(16), nullable=False),
    Column("first_length", Integer, nullable=False),
    Column("first_stored", Integer, nullable=False),
    Index(None, "pack_id"),
    sqlite_with_rowid=False,
)
