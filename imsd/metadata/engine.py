"""How each database is connected to: the settings that the promises of `Database` rest on.

SQLite: WAL lets readers see a snapshot while the one writer writes; `synchronous=FULL` makes a commit
survive a power cut; the driver's own transaction control is off and `BEGIN IMMEDIATE` takes the write
lock at once, because a read lock that is upgraded later deadlocks. PostgreSQL: an advisory lock makes one
writer of all daemons, so that the rules proved with one hold for many.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .sqlite_driver import BEGIN_READING, BEGIN_WRITING, SYNCED, connect_quickly, from_json

# Connections that read at the same time.
READERS = 4

# A lock is waited for this long: another program (a backup, a shell) may hold it for a moment.
BUSY_TIMEOUT_MS = 10_000

# The writer finds and inserts digests in random order; readers only read lists.
WRITER_CACHE_KIB = 16_384
READER_CACHE_KIB = 2_048

# After a checkpoint the write-ahead log is cut back to this.
WAL_LIMIT_BYTES = 8 << 20

# "imsd" in ASCII.
WRITER_LOCK = 0x696D7364

# A daemon that hangs inside a transaction loses it, and with it the writer's lock.
IDLE_IN_TRANSACTION_MS = 60_000


def writing_engine(url: URL) -> AsyncEngine:
    """One connection, kept open."""
    if _is_sqlite(url):
        engine = _sqlite(
            url, BEGIN_WRITING, f"cache_size=-{WRITER_CACHE_KIB}", "foreign_keys=ON", pool_size=1
        )
    else:
        engine = _postgresql(url, pool_size=1)
        _lock_as_writer(engine)
    return engine


def reading_engine(url: URL) -> AsyncEngine:
    """One connection, kept open; each transaction sees one snapshot and cannot write."""
    if _is_sqlite(url):
        return _sqlite(url, BEGIN_READING, f"cache_size=-{READER_CACHE_KIB}", "query_only=ON", pool_size=1)
    return _postgresql(
        url,
        pool_size=1,
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
    )


def migrating_engine(url: URL) -> AsyncEngine:
    """Foreign keys are not enforced: Alembic alters an SQLite table by making it anew."""
    if _is_sqlite(url):
        return _sqlite(url, BEGIN_WRITING, "foreign_keys=OFF", pool_size=1)
    return writing_engine(url)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _sqlite(url: URL, begin: str, *pragmas: str, pool_size: int) -> AsyncEngine:
    always = (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        f"journal_size_limit={WAL_LIMIT_BYTES}",
        "temp_store=MEMORY",
        "case_sensitive_like=ON",  # as on PostgreSQL; only so does LIKE use an index
    )
    arguments = {"async_creator_fn": connect_quickly, "isolation_level": None}
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_reset_on_return=None,  # a connection that is closed rolls back what it began; no need to repeat
        connect_args=arguments,
        json_deserializer=from_json,
        hide_parameters=True,  # an error is logged, and what a row keeps may be bytes of a file
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        for pragma in (*always, *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.execute(SYNCED)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql(url: URL, **options: Any) -> AsyncEngine:
    settings = {
        "application_name": "imsd",
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
    }
    arguments = {"server_settings": settings}
    options |= {"connect_args": arguments, "hide_parameters": True}
    return create_async_engine(url, max_overflow=0, pool_pre_ping=True, **options)


def _lock_as_writer(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "begin")
    def take_lock(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
