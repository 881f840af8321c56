"""Keys, the data keys that they wrap, and which image and which upload is encrypted."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_OF_A_KEY = "ix_image_project_id_key_id_created_at_id"


def upgrade() -> None:
    there = sa.inspect(op.get_bind())
    if not there.has_table("encryption_key"):
        _create_keys()
    if not there.has_table("data_key"):
        _create_data_keys()
    for table, column in (("image", "key_id"), ("upload", "image_id")):
        if column not in {each["name"] for each in there.get_columns(table)}:
            op.add_column(table, sa.Column(column, sa.String(36), nullable=False, server_default=""))
    op.create_index(_OF_A_KEY, "image", ["project_id", "key_id", "created_at", "id"], if_not_exists=True)
    op.create_index("ix_upload_image_id", "upload", ["image_id"], if_not_exists=True)


def _create_keys() -> None:
    op.create_table(
        "encryption_key",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("key_service", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("delete_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_encryption_key"),
    )
    for columns in (["project_id", "created_at", "id"], ["project_id", "name"], ["state", "delete_at"]):
        op.create_index(f"ix_encryption_key_{'_'.join(columns)}", "encryption_key", columns)


def _create_data_keys() -> None:
    op.create_table(
        "data_key",
        sa.Column("image_id", sa.String(36), nullable=False),
        sa.Column("key_id", sa.String(36), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("image_id", name="pk_data_key"),
    )
    op.create_index("ix_data_key_key_id_image_id", "data_key", ["key_id", "image_id"])


def downgrade() -> None:
    op.drop_index("ix_upload_image_id", "upload")
    op.drop_index(_OF_A_KEY, "image")
    op.drop_column("upload", "image_id")
    op.drop_column("image", "key_id")
    op.drop_table("data_key")
    op.drop_table("encryption_key")
