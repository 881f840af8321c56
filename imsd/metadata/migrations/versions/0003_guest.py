"""What was found inside an image, its architecture and boot mode."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("image", sa.Column("guest", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("image", sa.Column("architecture", sa.String(length=8), nullable=False, server_default=""))
    op.add_column("image", sa.Column("boot_mode", sa.String(length=8), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("image", "boot_mode")
    op.drop_column("image", "architecture")
    op.drop_column("image", "guest")
