"""Attachments: images that block servers offer as disks."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attachment",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("image_name", sa.String(length=128), nullable=False),
        sa.Column("export_name", sa.String(length=255), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("manifest_id", sa.String(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("binding", sa.String(length=64), server_default="", nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("is_detaching", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attachment")),
        if_not_exists=True,
    )
    op.create_index(
        op.f("ix_attachment_project_id_created_at_id"),
        "attachment",
        ["project_id", "created_at", "id"],
        if_not_exists=True,
    )
    op.create_index(op.f("ix_attachment_host_id_id"), "attachment", ["host_id", "id"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index(op.f("ix_attachment_host_id_id"), "attachment")
    op.drop_index(op.f("ix_attachment_project_id_created_at_id"), "attachment")
    op.drop_table("attachment")
