"""How much of each pack is needed, counted and remembered; how far the last scrub of each store came."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    if "live_bytes" not in {column["name"] for column in inspector.get_columns("pack")}:
        op.add_column("pack", sa.Column("live_bytes", sa.BigInteger(), nullable=True))
        op.add_column("pack", sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True))
        op.add_column(
            "pack", sa.Column("is_count_due", sa.Boolean(), nullable=False, server_default=sa.true())
        )
    op.create_table(
        "pack_use",
        sa.Column("pack_id", sa.String(length=32), nullable=False),
        sa.Column("manifest_id", sa.String(length=32), nullable=False),
        sa.Column("unique_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pack_id"], ["pack.id"], name=op.f("fk_pack_use_pack_id_pack"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["manifest_id"],
            ["manifest.id"],
            name=op.f("fk_pack_use_manifest_id_manifest"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("pack_id", "manifest_id", name=op.f("pk_pack_use")),
        if_not_exists=True,
    )
    op.create_index(op.f("ix_pack_use_manifest_id"), "pack_use", ["manifest_id"], if_not_exists=True)
    op.create_table(
        "store_scrub",
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("position", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_report", sa.JSON(), nullable=False),
        sa.Column("last_finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("store", name=op.f("pk_store_scrub")),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("store_scrub")
    op.drop_index(op.f("ix_pack_use_manifest_id"), "pack_use")
    op.drop_table("pack_use")
    for name in ("is_count_due", "counted_at", "live_bytes"):
        op.drop_column("pack", name)
