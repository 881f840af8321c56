"""Plugin: blobs in one SQLite file. Small and complete; an ingest is kept in memory until it is committed."""

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    Buffer,
    ByteRange,
    DataLoss,
    FailedPrecondition,
    ImsError,
    Ingest,
    LimitExceeded,
    NotFound,
    StoreCapabilities,
    StoredBlob,
    StoreDriver,
    StoreUsage,
    Unavailable,
    hookimpl,
    run_in_pool,
)

TABLE = """CREATE TABLE IF NOT EXISTS blob (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, modified REAL NOT NULL,
    content BLOB NOT NULL)"""

ERRORS: dict[int, tuple[type[ImsError], str]] = {
    sqlite3.SQLITE_CONSTRAINT: (AlreadyExists, "ALREADY_EXISTS"),
    sqlite3.SQLITE_FULL: (LimitExceeded, "CAPACITY_EXHAUSTED"),
    sqlite3.SQLITE_READONLY: (FailedPrecondition, "STORE_READ_ONLY"),
    sqlite3.SQLITE_CORRUPT: (DataLoss, "DATA_LOSS"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    # The database file; made if its directory exists.
    path: Path


class SqliteStore(BlobStore):
    """All calls of the connection run in the one thread of ``thread``."""

    capabilities = StoreCapabilities(put_if_absent=True)

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        yield SqliteIngest(self, blob)

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        return await run_in_pool(self._thread, read_ranges, self._connection, blob, ranges)

    async def stat(self, blob: BlobId) -> StoredBlob:
        found = await self.query("SELECT id, size, modified FROM blob WHERE id = ?", blob)
        if not found:
            raise NotFound(f"there is no blob {blob}")
        return stored_blob(*found[0])

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        wanted = "id > ? AND substr(id, 1, ?) = ? ORDER BY id LIMIT 500"
        while True:
            page = await self.query(
                f"SELECT id, size, modified FROM blob WHERE {wanted}", after, len(prefix), prefix
            )
            if not page:
                return
            for row in page:
                yield stored_blob(*row)
            after = page[-1][0]

    async def delete(self, blob: BlobId) -> None:
        await self.query("DELETE FROM blob WHERE id = ?", blob)

    async def usage(self) -> StoreUsage:
        ((used_bytes,),) = await self.query("SELECT coalesce(sum(size), 0) FROM blob")
        return StoreUsage(used_bytes, free_bytes=None)

    async def query(self, statement: str, *values: object) -> Sequence[Any]:
        """Each statement is a transaction of its own, synced to the disk."""
        return await run_in_pool(self._thread, rows, self._connection, statement, values)


class SqliteIngest(Ingest):
    def __init__(self, store: SqliteStore, blob: BlobId) -> None:
        self._store = store
        self._blob = blob
        self._content = bytearray()

    async def write(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._content += buffer

    async def commit(self) -> StoredBlob:
        row = (self._blob, len(self._content), datetime.now(UTC).timestamp())
        await self._store.query(
            "INSERT INTO blob (id, size, modified, content) VALUES (?, ?, ?, ?)", *row, self._content
        )
        return stored_blob(*row)


def rows(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> Sequence[Any]:
    with translated():
        return connection.execute(statement, values).fetchall()


def read_ranges(connection: sqlite3.Connection, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
    found = rows(connection, "SELECT number, size FROM blob WHERE id = ?", [blob])
    if not found:
        raise NotFound(f"there is no blob {blob}")
    number, size_bytes = found[0]
    if any(wanted.end > size_bytes for wanted in ranges):
        raise DataLoss(f"blob {blob} has only {size_bytes} bytes")
    pieces = []
    with translated(), connection.blobopen("blob", "content", number, readonly=True) as content:
        for wanted in ranges:
            content.seek(wanted.offset)
            pieces.append(content.read(wanted.length))
    return pieces


def stored_blob(blob: str, size_bytes: int, modified: float) -> StoredBlob:
    return StoredBlob(BlobId(blob), size_bytes, datetime.fromtimestamp(modified, UTC))


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = (error.sqlite_errorcode or 0) & 0xFF  # without the extension
        found, reason = ERRORS.get(code, (Unavailable, "STORE_UNAVAILABLE"))
        raise found(f"the database says: {error}", reason=reason) from error


@asynccontextmanager
async def open_sqlite_store(options: SqliteOptions) -> AsyncIterator[BlobStore]:
    thread = ThreadPoolExecutor(1, "sqlite")
    try:
        connection = await run_in_pool(thread, _connect, options.path)
        try:
            yield SqliteStore(connection, thread)
        finally:
            await run_in_pool(thread, connection.close)
    finally:
        thread.shutdown()


def _connect(path: Path) -> sqlite3.Connection:
    with translated():
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(TABLE)
        return connection


@hookimpl
def imsd_blob_stores() -> Sequence[StoreDriver[SqliteOptions]]:
    return [
        StoreDriver(
            name="sqlite",
            summary="one SQLite file, for small images",
            options=SqliteOptions,
            open=open_sqlite_store,
        )
    ]
