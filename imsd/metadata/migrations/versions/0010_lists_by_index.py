"""Lists, counts and searches pass over images without a look at their rows."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BATCH = 1000
BETWEEN = "\x1f"

_LISTED = "ix_image_listed"
_COUNTED = "ix_image_counted"
_BEFORE = "ix_image_project_id_created_at_id"

_LISTED_COLUMNS = [
    *("project_id", "created_at", "id", "status", "visibility", "kind", "disk_format", "os_type", "os_bits"),
    *("platform", "architecture", "boot_mode", "server_kind", "is_protected", "is_published"),
    *("min_disk_gb", "min_ram_mb", "deprecated_at", "updated_at", "name", "search_text"),
]

_image = sa.table(
    "image", *(sa.column(name) for name in ("id", "name", "os_version", "platform", "search_text"))
)


def upgrade() -> None:
    connection = op.get_bind()
    if "search_text" not in {column["name"] for column in sa.inspect(connection).get_columns("image")}:
        op.add_column("image", sa.Column("search_text", sa.Text(), nullable=False, server_default=""))
    op.drop_index(_BEFORE, "image", if_exists=True)
    op.drop_index(_LISTED, "image", if_exists=True)  # to be made when its texts are there
    _fill(connection)
    op.create_index(_LISTED, "image", _LISTED_COLUMNS)
    columns = ["project_id", "status", "visibility", "stored_size"]
    op.create_index(_COUNTED, "image", columns, if_not_exists=True)


def downgrade() -> None:
    op.drop_index(_COUNTED, "image")
    op.drop_index(_LISTED, "image")
    op.create_index(_BEFORE, "image", ["project_id", "created_at", "id"])
    op.drop_column("image", "search_text")


def _fill(connection: sa.Connection) -> None:
    """As an image says it of itself when its row is written; what the letters fold to, Python alone knows."""
    change = (
        sa.update(_image)
        .where(_image.c.id == sa.bindparam("of_image"))
        .values(search_text=sa.bindparam("text"))
    )
    rows = sa.select(_image).order_by(_image.c.id).limit(BATCH)
    after = ""
    while found := list(connection.execute(rows.where(_image.c.id > after))):
        connection.execute(change, [{"of_image": row.id, "text": _text(row)} for row in found])
        after = found[-1].id


def _text(row: sa.Row[Any]) -> str:
    texts = (row.name, row.os_version, row.platform)
    return BETWEEN.join(text.replace(BETWEEN, " ") for text in texts).casefold()
