"""What an attached disk is, which the manifest that is served as it has to prove."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    there = sa.inspect(op.get_bind()).get_columns("attachment")
    if "digest" not in {each["name"] for each in there}:
        op.add_column("attachment", sa.Column("digest", sa.String(80), nullable=False, server_default=""))
    op.execute(
        "UPDATE attachment SET digest = (SELECT image.digest FROM image WHERE image.id = attachment.image_id)"
        " WHERE digest = '' AND EXISTS (SELECT 1 FROM image WHERE image.id = attachment.image_id)"
    )


def downgrade() -> None:
    op.drop_column("attachment", "digest")
