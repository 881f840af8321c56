"""A blob store that keeps sizes and no bytes: what a pipeline costs without its store.

It keeps every promise of `BlobStore` but two: what is read is zeros, whatever was written, and
nothing survives the process. Use it to measure, never to keep anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    Buffer,
    ByteRange,
    DataLoss,
    Ingest,
    NotFound,
    StoreCapabilities,
    StoredBlob,
    StoreUsage,
)

from .memory_store import utc_now


class NullStore(BlobStore):
    """Remembers the id, size and time of every committed blob."""

    capabilities = StoreCapabilities(put_if_absent=True)

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._blobs: dict[BlobId, StoredBlob] = {}

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        yield NullIngest(self, blob)

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Zeros of the lengths asked."""
        size_bytes = (await self.stat(blob)).size_bytes
        for wanted in ranges:
            if wanted.end > size_bytes:
                raise DataLoss(f"blob {blob} has {size_bytes} bytes, {wanted.end} were expected")
        return [bytes(wanted.length) for wanted in ranges]

    async def stat(self, blob: BlobId) -> StoredBlob:
        try:
            return self._blobs[blob]
        except KeyError:
            raise NotFound(f"there is no blob {blob}") from None

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        for blob in sorted(blob for blob in self._blobs if blob.startswith(prefix) and blob > after):
            if blob in self._blobs:  # not deleted meanwhile
                yield self._blobs[blob]

    async def delete(self, blob: BlobId) -> None:
        self._blobs.pop(blob, None)

    async def usage(self) -> StoreUsage:
        """The sum of the sizes, though no byte is kept; there is always room."""
        return StoreUsage(sum(stored.size_bytes for stored in self._blobs.values()), None)

    def publish(self, blob: BlobId, size_bytes: int) -> StoredBlob:
        """Make a blob visible. Raises AlreadyExists."""
        if blob in self._blobs:
            raise AlreadyExists(f"blob {blob} exists already")
        self._blobs[blob] = StoredBlob(blob, size_bytes, self._clock())
        return self._blobs[blob]


class NullIngest(Ingest):
    """Counts bytes."""

    def __init__(self, store: NullStore, blob: BlobId) -> None:
        self._store = store
        self._blob = blob
        self._size_bytes = 0

    async def write(self, buffers: Sequence[Buffer]) -> None:
        self._size_bytes += sum(memoryview(buffer).nbytes for buffer in buffers)

    async def commit(self) -> StoredBlob:
        return self._store.publish(self._blob, self._size_bytes)
