"""Which schema a database has, and the way to the one this program knows.

Alembic takes a fifth of a second to import, so it is imported only when there is something to migrate.
"""

from __future__ import annotations

from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition

from .connection import UnbrokenConnection, to_its_end
from .engine import migrating_engine

# Every revision of `migrations/versions`, oldest first. A test holds the two together.
REVISIONS = (
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
    "0016",
    "0017",
    "0018",
    "0019",
)

VERSION_TABLE = "alembic_version"


async def check(connection: AsyncConnection) -> bool:
    """Whether the schema is up to date. Raises FailedPrecondition for one that imsd cannot use."""
    return await connection.run_sync(_is_current)


async def upgrade(url: URL) -> None:
    """Bring the schema up to date, wholly or not at all."""
    engine = migrating_engine(url)
    connection = UnbrokenConnection(engine)
    try:
        await connection.start()
        await connection.run_sync(_upgrade)
        await connection.commit()
    finally:
        await connection.close()
        await to_its_end(engine.dispose())


def _is_current(connection: Connection) -> bool:
    if not connection.dialect.has_table(connection, VERSION_TABLE):
        if connection.dialect.get_table_names(connection):
            raise FailedPrecondition(
                "the database holds the tables of another program",
                reason="INVALID_CONFIGURATION",
                hint="give imsd a database of its own",
            )
        return False
    revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if revision is not None and revision not in REVISIONS:
        raise FailedPrecondition(
            f"the database was written by an imsd that this one does not know: its schema is {revision},"
            f" this program's is {REVISIONS[-1]}",
            hint="start that imsd again, or restore a backup of the database made before the update",
        )
    return revision == REVISIONS[-1]


def _upgrade(connection: Connection) -> None:
    if _is_current(connection):  # another daemon was faster
        return
    from .migrations import migrate

    migrate(connection, REVISIONS[-1])
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise FailedPrecondition(
                f"the database is damaged: {len(broken)} rows refer to rows that are missing",
                hint="restore it from a backup",
            )
