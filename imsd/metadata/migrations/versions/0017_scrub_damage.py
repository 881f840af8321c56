"""What scrubs found: each damaged blob, with every manifest that needs what is damaged."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scrub_damage",
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("blob", sa.String(length=255), nullable=False),
        sa.Column("manifest_id", sa.String(length=32), nullable=False),
        sa.Column("chunk_count", sa.Integer(), nullable=False),
        sa.Column("damaged_bytes", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("store", "blob", "manifest_id", name=op.f("pk_scrub_damage")),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("scrub_damage")
