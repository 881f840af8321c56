"""A list of a project's images in the order of their ids is read from an index."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NAME = "ix_image_project_id_id"


def upgrade() -> None:
    op.create_index(_NAME, "image", ["project_id", "id"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index(_NAME, "image")
