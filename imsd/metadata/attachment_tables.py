"""The table of attachments: images that block servers offer as disks."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, String, Table, false

from .columns import ID, PROJECT_ID, UtcDateTime, metadata

# An attachment lives longer than its image: its columns say all that the block server is told.
# host_id: of the state directory whose block server has it. binding: of an encrypted image, whose data key
# it is sealed with; empty: a plain one. digest: of the disk; empty: of an image that was gone before it was
# kept.
attachment = Table(
    "attachment",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", PROJECT_ID, nullable=False),
    Column("image_id", ID, nullable=False),
    Column("image_name", String(128), nullable=False),
    Column("export_name", String(255), nullable=False),
    Column("store", String(64), nullable=False),
    Column("manifest_id", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("binding", String(64), nullable=False, server_default=""),
    Column("host_id", ID, nullable=False),
    Column("host", String(255), nullable=False),
    Column("is_detaching", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False),
    Column("digest", String(80), nullable=False, server_default=""),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "host_id", "id"),
)
