"""The whole image service: kinds, sharing, who may, quotas and usage, the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The table, and the columns of an index of it.
INDEXES = (
    ("role_grant", "project_id"),
    ("trace", "project_id", "caller_id", "time", "sequence"),
    ("trace", "project_id", "name", "time", "sequence"),
    ("trace", "project_id", "outcome", "time", "sequence"),
    ("trace", "project_id", "request_id", "time", "sequence"),
    ("trace", "project_id", "resource_id", "time", "sequence"),
    ("trace", "project_id", "resource_type", "time", "sequence"),
    ("trace", "project_id", "time", "sequence"),
    ("trace_chain", "oldest_at"),
    ("trace_intent", "owner"),
    ("usage_record", "hour", "project_id", "resource"),
    ("api_token", "created_at", "id"),
    ("api_token", "user_id", "created_at", "id"),
    ("group_member", "user_id"),
    ("image_member", "image_id", "created_at", "project_id"),
    ("image_member", "project_id", "status", "image_id"),
    ("image_support", "project_id", "feature", "value", "image_id"),
    ("image", "family", "visibility", "created_at", "id"),
    ("image", "project_id", "architecture", "created_at", "id"),
    ("image", "project_id", "disk_format", "id"),
    ("image", "project_id", "enterprise_project_id", "created_at", "id"),
    ("image", "project_id", "family", "created_at", "id"),
    ("image", "project_id", "kind", "created_at", "id"),
    ("image", "project_id", "min_disk_gb", "id"),
    ("image", "project_id", "os_type", "created_at", "id"),
    ("image", "project_id", "os_version", "created_at", "id"),
    ("image", "project_id", "platform", "created_at", "id"),
    ("image", "project_id", "visibility", "created_at", "id"),
    ("image", "status", "purge_at"),
    ("image", "visibility", "created_at", "id"),
    ("image", "visibility", "name", "id"),
    ("image_tag", "project_id", "key", "value", "image_id"),
)


def _image_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("visibility", sa.String(length=8), server_default="private", nullable=False),
        sa.Column("kind", sa.String(length=12), server_default="system_disk", nullable=False),
        sa.Column("server_kind", sa.String(length=12), server_default="virtual", nullable=False),
        sa.Column("os_type", sa.String(length=8), server_default="", nullable=False),
        sa.Column("os_bits", sa.Integer(), server_default="0", nullable=False),
        sa.Column("platform", sa.String(length=32), server_default="", nullable=False),
        sa.Column("family", sa.String(length=63), server_default="", nullable=False),
        sa.Column("deprecated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replacement_image_id", sa.String(length=36), server_default="", nullable=False),
        sa.Column("is_published", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("product_code", sa.String(length=64), server_default="", nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("purge_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status_before", sa.String(length=16), server_default="", nullable=False),
        sa.Column("origin_kind", sa.String(length=16), server_default="", nullable=False),
        sa.Column("origin", sa.Text(), server_default="", nullable=False),
        sa.Column("is_prepared", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("is_fast_imported", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("public_platform", sa.String(length=32), server_default="", nullable=False),
        sa.Column("is_market_derived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("server_support", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("has_nic_multiqueue", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("shutdown_timeout_seconds", sa.Integer(), server_default="60", nullable=False),
        sa.Column("is_guest_configured", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("license_type", sa.String(length=8), server_default="", nullable=False),
        sa.Column("enterprise_project_id", sa.String(length=36), server_default="0", nullable=False),
        sa.Column("agents", sa.JSON(), server_default="[]", nullable=False),
        sa.Column("os_features", sa.Text(), server_default="", nullable=False),
        sa.Column("has_no_credential_injection", sa.Boolean(), server_default=sa.false(), nullable=False),
    )


def upgrade() -> None:
    for column in _image_columns():
        op.add_column("image", column)
    op.create_table(
        "project",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
    )
    op.create_table(
        "quota_override",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=64), nullable=False),
        sa.Column("quota", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource", name=op.f("pk_quota_override")),
    )
    op.create_table(
        "role_grant",
        sa.Column("principal_kind", sa.String(length=12), nullable=False),
        sa.Column("principal_id", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(
            "principal_kind", "principal_id", "project_id", "role", name=op.f("pk_role_grant")
        ),
    )
    op.create_table(
        "trace",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("resource_type", sa.String(length=32), nullable=False),
        sa.Column("resource_id", sa.String(length=255), nullable=False),
        sa.Column("resource_name", sa.String(length=128), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("caller_kind", sa.String(length=24), nullable=False),
        sa.Column("caller_id", sa.String(length=255), nullable=False),
        sa.Column("token_id", sa.String(length=36), nullable=False),
        sa.Column("peer", sa.String(length=255), nullable=False),
        sa.Column("method", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("call_id", sa.String(length=36), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "sequence", name=op.f("pk_trace")),
        sa.UniqueConstraint("id", name=op.f("uq_trace_id")),
    )
    op.create_table(
        "trace_chain",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("sealed_sequence", sa.BigInteger(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("oldest_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_trace_chain")),
    )
    op.create_table(
        "trace_intent",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("owner", sa.String(length=36), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trace_intent")),
    )
    op.create_table(
        "trace_seal",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "sequence", name=op.f("pk_trace_seal")),
    )
    op.create_table(
        "usage_record",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resource", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "hour", "resource", name=op.f("pk_usage_record")),
    )
    op.create_table(
        "user_account",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_account")),
    )
    op.create_table(
        "user_group",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_group")),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user_account.id"],
            name=op.f("fk_api_token_user_id_user_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
    )
    op.create_table(
        "group_member",
        sa.Column("group_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["user_group.id"],
            name=op.f("fk_group_member_group_id_user_group"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user_account.id"],
            name=op.f("fk_group_member_user_id_user_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "user_id", name=op.f("pk_group_member")),
    )
    op.create_table(
        "image_member",
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_image_member_image_id_image"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "project_id", name=op.f("pk_image_member")),
    )
    op.create_table(
        "image_support",
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("feature", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_image_support_image_id_image"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "feature", name=op.f("pk_image_support")),
    )
    op.add_column(
        "image_tag", sa.Column("project_id", sa.String(length=64), server_default="", nullable=False)
    )
    op.add_column("upload", sa.Column("is_fast", sa.Boolean(), server_default=sa.false(), nullable=False))
    for table, *columns in INDEXES:
        op.create_index(op.f(_name_of(table, columns)), table, columns)
    op.execute("UPDATE image SET kind = 'iso' WHERE disk_format = 'iso'")
    op.execute(
        "UPDATE image_tag SET project_id = (SELECT project_id FROM image WHERE image.id = image_tag.image_id)"
    )


def downgrade() -> None:
    for table, *columns in reversed(INDEXES):
        op.drop_index(op.f(_name_of(table, columns)), table_name=table)
    op.drop_column("upload", "is_fast")
    op.drop_column("image_tag", "project_id")
    op.drop_table("image_support")
    op.drop_table("image_member")
    op.drop_table("group_member")
    op.drop_table("api_token")
    op.drop_table("user_group")
    op.drop_table("user_account")
    op.drop_table("usage_record")
    op.drop_table("trace_seal")
    op.drop_table("trace_intent")
    op.drop_table("trace_chain")
    op.drop_table("trace")
    op.drop_table("role_grant")
    op.drop_table("quota_override")
    op.drop_table("project")
    for column in reversed(_image_columns()):
        op.drop_column("image", column.name)


def _name_of(table: str, columns: list[str]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"
