"""The dedup index is one for each store: what is imported into a store refers to nothing in another one."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_NEW, _OLD = ("store", "domain", "digest"), ("domain", "digest")
_PLACE = "pack_id, pack_offset, stored_length, length, codec, stored_check, first_length, first_stored"


def upgrade() -> None:
    connection = op.get_bind()
    if "store" in {column["name"] for column in sa.inspect(connection).get_columns("chunk")}:
        return
    if connection.dialect.name == "sqlite":
        _make_anew(
            _NEW,
            f"INSERT INTO chunk_anew (store, domain, digest, {_PLACE}) SELECT pack.store, chunk.domain,"
            f" chunk.digest, {_PLACE} FROM chunk JOIN pack ON pack.id = chunk.pack_id ORDER BY 1, 2, 3",
        )
        return
    op.add_column("chunk", sa.Column("store", sa.String(length=64), nullable=True))
    op.execute("UPDATE chunk SET store = pack.store FROM pack WHERE pack.id = chunk.pack_id")
    op.alter_column("chunk", "store", nullable=False)
    op.drop_constraint("pk_chunk", "chunk")
    op.create_primary_key("pk_chunk", "chunk", list(_NEW))


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _make_anew(
            _OLD,
            f"INSERT OR IGNORE INTO chunk_anew (domain, digest, {_PLACE})"
            f" SELECT domain, digest, {_PLACE} FROM chunk",
        )
        return
    op.execute(
        "DELETE FROM chunk USING chunk AS other WHERE chunk.domain = other.domain"
        " AND chunk.digest = other.digest AND chunk.store > other.store"
    )
    op.drop_constraint("pk_chunk", "chunk")
    op.create_primary_key("pk_chunk", "chunk", list(_OLD))
    op.drop_column("chunk", "store")


def _make_anew(key: tuple[str, ...], fill: str) -> None:
    """SQLite alters no primary key: the rows go into another table, which takes the name."""
    columns = [sa.Column("store", sa.String(length=64), nullable=False)] if "store" in key else []
    op.create_table(
        "chunk_anew",
        *columns,
        sa.Column("domain", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("pack_id", sa.String(length=32), nullable=False),
        sa.Column("pack_offset", sa.Integer(), nullable=False),
        sa.Column("stored_length", sa.Integer(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("codec", sa.Integer(), nullable=False),
        sa.Column("stored_check", sa.LargeBinary(length=16), nullable=False),
        sa.Column("first_length", sa.Integer(), nullable=False),
        sa.Column("first_stored", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["pack_id"], ["pack.id"], name="fk_chunk_pack_id_pack"),
        sa.PrimaryKeyConstraint(*key, name="pk_chunk"),
        sqlite_with_rowid=False,
    )
    op.execute(fill)
    op.drop_table("chunk")  # and its index
    op.rename_table("chunk_anew", "chunk")
    op.create_index("ix_chunk_pack_id", "chunk", ["pack_id"])
