"""Reading stored bytes that must be there: a missing or short blob is lost data, named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from imsd.contract import BlobId, BlobStore, ByteRange, DataLoss, NotFound
from imsd.formats.source import FetchedSource

from .fetched_segments import SegmentSource

# A store out of the house answers after tens of milliseconds, and a window touches a dozen packs.
BLOBS_AT_ONCE = 8

LOST_HINT = "verify the image to see how much is lost, and then import it again from another copy"


async def read_blob(store: BlobStore, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
    """The bytes of each range. Raises DataLoss that names the blob, Unavailable."""
    try:
        pieces = await store.read(blob, ranges)
    except NotFound:
        raise DataLoss(f"blob {blob} is missing", hint=LOST_HINT) from None
    except DataLoss as error:
        message = error.message if blob in error.message else f"blob {blob}: {error.message}"
        raise DataLoss(message, hint=error.hint or LOST_HINT) from None
    if [len(piece) for piece in pieces] != [wanted.length for wanted in ranges]:
        raise DataLoss(f"blob {blob} gave fewer bytes than it was asked for", hint=LOST_HINT)
    return pieces


async def read_blobs(
    store: BlobStore, wanted: Mapping[BlobId, Sequence[ByteRange]]
) -> dict[BlobId, list[bytes]]:
    """As `read_blob`, for several blobs, a few at once; when one fails, none goes on reading."""
    if len(wanted) == 1:
        return {blob: await read_blob(store, blob, ranges) for blob, ranges in wanted.items()}
    turns = asyncio.Semaphore(BLOBS_AT_ONCE)

    async def read(blob: BlobId) -> list[bytes]:
        async with turns:
            return await read_blob(store, blob, wanted[blob])

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {blob: group.create_task(read(blob)) for blob in wanted}
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return {blob: task.result() for blob, task in tasks.items()}


class BlobSource(SegmentSource):
    """One blob of a store as a `FetchedSource`."""

    def __init__(self, store: BlobStore, blob: BlobId, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._store = store
        self._blob = blob

    async def _load(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        return await read_blob(self._store, self._blob, ranges)


class GuestFetch(FetchedSource):
    """Fetches for a range of the disk, so that an error can say where on the disk bytes are lost."""

    def __init__(self, source: FetchedSource, guest: ByteRange) -> None:
        self.size_bytes = source.size_bytes
        self._source = source
        self._guest = guest

    @asynccontextmanager
    async def fetching(self, ranges: Sequence[ByteRange]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._source.fetching(ranges))
            except DataLoss as error:
                raise DataLoss(
                    f"the disk cannot be read from guest offset {self._guest.offset} "
                    f"to {self._guest.end}: {error.message}",
                    hint=error.hint,
                ) from None
            yield

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        return self._source.read(offset, length)
