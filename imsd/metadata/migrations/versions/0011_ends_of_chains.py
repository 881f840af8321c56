"""The end of each chain bears the mark of the daemon that wrote it, so that no other end is gone on from."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    columns = sa.inspect(op.get_bind()).get_columns("trace_chain")
    if not any(column["name"] == "mac" for column in columns):
        op.add_column(
            "trace_chain", sa.Column("mac", sa.String(length=64), nullable=False, server_default="")
        )


def downgrade() -> None:
    op.drop_column("trace_chain", "mac")
