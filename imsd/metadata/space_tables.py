"""Tables of what stores hold: which bytes one manifest alone needs, and how far the scrub of a store came."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text

from .columns import ID, UtcDateTime, metadata

# Bytes of a pack that one manifest alone needs; no row: none. As old as the pack's `counted_at`.
pack_use = Table(
    "pack_use",
    metadata,
    Column("pack_id", String(32), ForeignKey("pack.id", ondelete="CASCADE"), primary_key=True),
    Column("manifest_id", String(32), ForeignKey("manifest.id", ondelete="CASCADE"), primary_key=True),
    Column("unique_bytes", BigInteger, nullable=False),
    Index(None, "manifest_id"),
)

# The scrub of a store that runs or was broken off (finished_at null), and what the last whole one found.
store_scrub = Table(
    "store_scrub",
    metadata,
    Column("store", String(64), primary_key=True),
    Column("job_id", ID, nullable=False),
    Column("position", JSON, nullable=False),
    Column("report", JSON, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("last_report", JSON, nullable=False),
    Column("last_finished_at", UtcDateTime),
)

# What a scrub found, by the manifests that need what is damaged; manifest_id empty: none does, but a look-up
# might have found it.
scrub_damage = Table(
    "scrub_damage",
    metadata,
    Column("store", String(64), primary_key=True),
    Column("blob", String(255), primary_key=True),
    Column("manifest_id", String(32), primary_key=True),
    Column("chunk_count", Integer, nullable=False),
    Column("damaged_bytes", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    Column("found_at", UtcDateTime, nullable=False),
)
