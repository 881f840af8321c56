"""The jobs of an image, and those that ended long ago, are found without a look at all jobs."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OF_IMAGE = "ix_job_project_id_image_id_created_at_id"
_FINISHED = "ix_job_finished_at"
_BEFORE = "ix_job_image_id"


def upgrade() -> None:
    op.create_index(_OF_IMAGE, "job", ["project_id", "image_id", "created_at", "id"], if_not_exists=True)
    op.create_index(_FINISHED, "job", ["finished_at"], if_not_exists=True)
    op.drop_index(_BEFORE, "job", if_exists=True)


def downgrade() -> None:
    op.create_index(_BEFORE, "job", ["image_id"])
    op.drop_index(_FINISHED, "job")
    op.drop_index(_OF_IMAGE, "job")
