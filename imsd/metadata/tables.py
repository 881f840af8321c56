"""The tables, for SQLite and PostgreSQL alike. `migrations/` brings a database to them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
    true,
)

from .attachment_tables import attachment
from .columns import ID, PROJECT_ID, UtcDateTime, metadata
from .identity_tables import (
    api_token,
    deleted_project,
    group_member,
    project,
    role_grant,
    user_account,
    user_group,
)
from .key_tables import data_key, encryption_key
from .quota_tables import quota_override, usage_record
from .space_tables import pack_use, scrub_damage, store_scrub
from .trace_tables import trace, trace_chain, trace_intent, trace_seal

__all__ = [
    "UtcDateTime",
    "api_token",
    "attachment",
    "chunk",
    "data_key",
    "deleted_project",
    "encryption_key",
    "group_member",
    "image",
    "image_member",
    "image_support",
    "image_tag",
    "job",
    "manifest",
    "manifest_holder",
    "metadata",
    "pack",
    "pack_reference",
    "pack_use",
    "project",
    "quota_override",
    "request",
    "role_grant",
    "scrub_damage",
    "service",
    "store_scrub",
    "trace",
    "trace_chain",
    "trace_intent",
    "trace_seal",
    "upload",
    "upload_part",
    "usage_record",
    "user_account",
    "user_group",
]

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
    Column("visibility", String(8), nullable=False, server_default="private"),
    Column("kind", String(12), nullable=False, server_default="system_disk"),
    Column("server_kind", String(12), nullable=False, server_default="virtual"),
    Column("os_type", String(8), nullable=False, server_default=""),
    Column("os_bits", Integer, nullable=False, server_default="0"),
    Column("platform", String(32), nullable=False, server_default=""),
    Column("family", String(63), nullable=False, server_default=""),
    Column("deprecated_at", UtcDateTime),
    Column("replacement_image_id", ID, nullable=False, server_default=""),
    Column("is_published", Boolean, nullable=False, server_default=false()),
    Column("product_code", String(64), nullable=False, server_default=""),
    Column("deleted_at", UtcDateTime),
    Column("purge_at", UtcDateTime),
    Column("status_before", String(16), nullable=False, server_default=""),
    Column("origin_kind", String(16), nullable=False, server_default=""),
    Column("origin", Text, nullable=False, server_default=""),
    Column("is_prepared", Boolean, nullable=False, server_default=false()),
    Column("is_fast_imported", Boolean, nullable=False, server_default=false()),
    Column("public_platform", String(32), nullable=False, server_default=""),
    Column("is_market_derived", Boolean, nullable=False, server_default=false()),
    Column("server_support", JSON, nullable=False, server_default="{}"),
    Column("has_nic_multiqueue", Boolean, nullable=False, server_default=false()),
    Column("shutdown_timeout_seconds", Integer, nullable=False, server_default="60"),
    Column("is_guest_configured", Boolean, nullable=False, server_default=false()),
    Column("license_type", String(8), nullable=False, server_default=""),
    Column("enterprise_project_id", ID, nullable=False, server_default="0"),
    Column("agents", JSON, nullable=False, server_default="[]"),
    Column("os_features", Text, nullable=False, server_default=""),
    Column("has_no_credential_injection", Boolean, nullable=False, server_default=false()),
    Column("search_text", Text, nullable=False, server_default=""),  # see `text_search`
    Column("key_id", ID, nullable=False, server_default=""),
    Index(None, "project_id", "id"),
    # The default order, with what filters ask for that have no index of their own: what does not fit is
    # passed over without a look at its row, which is a hundred times as long as its entry here. An entry of
    # PostgreSQL has at most 2,704 bytes. One of these has about 2,350 when its texts are as long as they may
    # be, in letters of four bytes: `os_version`, which is in `search_text`, does not fit in once more.
    Index(
        "ix_image_listed",
        *("project_id", "created_at", "id", "status", "visibility", "kind", "disk_format"),
        *("os_type", "os_bits", "platform", "architecture", "boot_mode", "server_kind"),
        *("is_protected", "is_published", "min_disk_gb", "min_ram_mb", "deprecated_at", "updated_at"),
        *("name", "search_text"),
    ),
    # Quotas and usage count without a look at the rows.
    Index("ix_image_counted", "project_id", "status", "visibility", "stored_size"),
    Index(None, "project_id", "updated_at", "id"),
    Index(None, "project_id", "name", "id"),
    Index(None, "project_id", "virtual_size", "id"),
    Index(None, "project_id", "status", "id"),
    # One name, status or format in the default order: read from the index, page by page.
    Index(None, "project_id", "name", "created_at", "id"),
    Index(None, "project_id", "status", "created_at", "id"),
    Index(None, "project_id", "disk_format", "created_at", "id"),
    Index(None, "project_id", "disk_format", "id"),
    Index(None, "project_id", "min_disk_gb", "id"),
    Index(None, "project_id", "visibility", "created_at", "id"),
    Index(None, "project_id", "kind", "created_at", "id"),
    Index(None, "project_id", "os_type", "created_at", "id"),
    Index(None, "project_id", "platform", "created_at", "id"),
    Index(None, "project_id", "os_version", "created_at", "id"),
    Index(None, "project_id", "architecture", "created_at", "id"),
    Index(None, "project_id", "family", "created_at", "id"),
    Index(None, "project_id", "store", "created_at", "id"),
    Index(None, "project_id", "enterprise_project_id", "created_at", "id"),
    Index(None, "project_id", "key_id", "created_at", "id"),
    Index(None, "visibility", "created_at", "id"),
    Index(None, "visibility", "name", "id"),
    Index(None, "family", "visibility", "created_at", "id"),
    Index(None, "status", "purge_at"),
)

image_tag = Table(
    "image_tag",
    metadata,
    Column("image_id", ID, ForeignKey("image.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(36), primary_key=True),
    Column("value", String(43), nullable=False),
    Column("project_id", PROJECT_ID, nullable=False, server_default=""),  # of the image
    Index(None, "key", "value", "image_id"),
    Index(None, "project_id", "key", "value", "image_id"),
)

# The marks of `ServerSupport` that are set, so that they can be looked for.
image_support = Table(
    "image_support",
    metadata,
    Column("image_id", ID, ForeignKey("image.id", ondelete="CASCADE"), primary_key=True),
    Column("feature", String(32), primary_key=True),
    Column("value", String(64), nullable=False),
    Column("project_id", PROJECT_ID, nullable=False),  # of the image
    Index(None, "project_id", "feature", "value", "image_id"),
)

# With whom an image is shared.
image_member = Table(
    "image_member",
    metadata,
    Column("image_id", ID, ForeignKey("image.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", PROJECT_ID, primary_key=True),
    Column("status", String(8), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "project_id", "status", "image_id"),
    Index(None, "image_id", "created_at", "project_id"),
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
    Index(None, "project_id", "image_id", "created_at", "id"),
    Index(None, "state", "created_at", "id"),
    Index(None, "finished_at"),
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
    Column("is_fast", Boolean, nullable=False, server_default=false()),
    Column("fence", Integer, nullable=False),
    Column("staged_bytes", BigInteger, nullable=False),
    Column("tree_state", LargeBinary, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("job_id", ID, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("image_id", ID, nullable=False, server_default=""),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "fingerprint", "created_at", "id"),
    Index(None, "expires_at"),
    Index(None, "image_id"),
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

# state: writing | live | condemned. live_bytes: of it, what manifests needed when that was counted; null:
# never. is_count_due: which manifests list it has changed since.
pack = Table(
    "pack",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("store", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("live_bytes", BigInteger),
    Column("counted_at", UtcDateTime),
    Column("is_count_due", Boolean, nullable=False, server_default=true()),
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

# Who holds a manifest: images, jobs, readers, attachments.
manifest_holder = Table(
    "manifest_holder",
    metadata,
    Column("manifest_id", String(32), ForeignKey("manifest.id"), primary_key=True),
    Column("holder_kind", String(16), primary_key=True),
    Column("holder_id", ID, primary_key=True),
    Index(None, "holder_kind", "holder_id"),
)

# The dedup index. The domain limits look-ups, not references. The store is that of the pack: an image refers
# to packs of its own store only.
chunk = Table(
    "chunk",
    metadata,
    Column("store", String(64), primary_key=True),
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
