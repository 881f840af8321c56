"""A project that has images, uploads or jobs is known: until now there was no table of them."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_USED = " UNION ALL ".join(
    f"SELECT project_id, created_at FROM {table}" for table in ("image", "upload", "job")
)


def upgrade() -> None:
    op.execute(
        "INSERT INTO project (id, description, created_at)"
        f" SELECT project_id, '', MIN(created_at) FROM ({_USED}) AS used"
        " WHERE NOT EXISTS (SELECT 1 FROM project WHERE project.id = used.project_id) GROUP BY project_id"
    )


def downgrade() -> None:
    """What a project has is not touched by its row."""
