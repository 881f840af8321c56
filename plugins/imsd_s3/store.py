"""A blob store in a bucket: the blob ``packs/0a/0a11`` is the object of that key, below the prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from imsd.contract import (
    BLOB_ID,
    BlobId,
    BlobStore,
    ByteRange,
    Ingest,
    StoreCapabilities,
    StoredBlob,
    StoreUsage,
    wait_through,
)

from . import objects
from .connection import Connection, opened_connection
from .failures import Failure
from .ingest import PartRoom, RunningUploads, S3Ingest
from .listing import in_order
from .objects import Page
from .options import S3StoreOptions
from .reading import Reader
from .stale_uploads import clean_up_for_ever

# A store with more objects does not tell its usage: counting them takes a request for each thousand.
MAX_COUNTED_OBJECTS: Final = 20_000

# When the store is opened, its operator waits for the answer.
OPENING_RETRIES: Final = 3


@asynccontextmanager
async def open_s3_store(options: S3StoreOptions) -> AsyncIterator[BlobStore]:
    """Connect, see that the bucket is there, and clean up after ingests that died.

    Raises MissingLibrary, InvalidRequest (INVALID_CONFIGURATION), FailedPrecondition (STORE_DENIED),
    Unavailable (STORE_UNAVAILABLE).
    """
    async with opened_connection(options) as connection:
        store = S3Store(connection, Reader(connection))
        await _require_bucket(connection)
        cleaning = None
        if options.stale_upload_hours:
            cleaning = asyncio.create_task(clean_up_for_ever(connection, store.running))
        try:
            yield store
        finally:
            if cleaning:
                cleaning.cancel()
                await wait_through([cleaning])


async def _require_bucket(connection: Connection) -> None:
    options = connection.options
    try:
        await objects.look_at_bucket(connection, options.key(""), OPENING_RETRIES)
    except Failure as failure:
        if failure.code == "NoSuchBucket":
            raise failure.as_wrong_bucket(options.bucket) from None
        raise failure.as_error(f"the bucket {options.bucket!r}", is_write=False) from None


class S3Store(BlobStore):
    """``running``: the uploads of its ingests."""

    def __init__(self, connection: Connection, reader: Reader) -> None:
        self.running = RunningUploads()
        self.capabilities = StoreCapabilities(put_if_absent=connection.options.put_if_absent)
        self._connection = connection
        self._reader = reader
        self._room = PartRoom(connection.options.parts_at_once)

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        ingest = S3Ingest(blob, self._connection, self._room, self.running)
        try:
            yield ingest
        finally:
            await ingest.close()

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        return await self._reader.read(blob, self._key(blob), ranges)

    async def stat(self, blob: BlobId) -> StoredBlob:
        return objects.stored_blob(blob, await objects.head(self._connection, self._key(blob)))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        if prefix and not BLOB_ID.match(f"{prefix}x") and not BLOB_ID.match(prefix):
            return  # no id begins like that, and services may take it for something else
        start = len(self._key(""))
        async for entry in in_order(self._page, self._key(prefix), self._key(after) if after else ""):
            name = entry.key[start:]
            if BLOB_ID.match(name):  # what has another name is no blob
                yield StoredBlob(BlobId(name), entry.size_bytes, entry.modified_at, entry.version)

    async def delete(self, blob: BlobId) -> None:
        await objects.delete(self._connection, self._key(blob))

    async def usage(self) -> StoreUsage:
        """Counts the objects, up to 20,000. What is free, no service tells."""
        used_bytes, objects_seen, more = 0, 0, ""
        while True:
            page = await objects.list_page(self._connection, self._key(""), more=more)
            used_bytes += sum(entry.size_bytes for entry in page.entries)
            objects_seen += len(page.entries)
            more = page.more
            if not more:
                return StoreUsage(used_bytes, None)
            if objects_seen >= MAX_COUNTED_OBJECTS:
                return StoreUsage(None, None)

    def _key(self, blob: str) -> str:
        return self._connection.options.key(blob)

    async def _page(self, prefix: str, after: str, more: str, delimiter: str) -> Page:
        return await objects.list_page(self._connection, prefix, after=after, more=more, delimiter=delimiter)
