"""The images of a store are found without a look at those of others."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_OF_STORE = "ix_image_project_id_store_created_at_id"


def upgrade() -> None:
    op.create_index(_OF_STORE, "image", ["project_id", "store", "created_at", "id"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index(_OF_STORE, "image")
