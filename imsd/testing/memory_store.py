"""A blob store in memory: the whole contract, and nothing survives the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    Buffer,
    ByteRange,
    DataLoss,
    Ingest,
    LimitExceeded,
    NotFound,
    StoreCapabilities,
    StoredBlob,
    StoreUsage,
)


def utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryStore(BlobStore):
    """Keeps every blob as one ``bytes``. ``capacity_bytes`` counts blobs and open ingests; None: no limit."""

    capabilities = StoreCapabilities(put_if_absent=True)

    def __init__(self, capacity_bytes: int | None = None, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._blobs: dict[BlobId, tuple[StoredBlob, bytes]] = {}
        self._used_bytes = 0  # of blobs and open ingests
        self._commits = 0

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        ingest = MemoryIngest(self, blob)
        try:
            yield ingest
        finally:
            ingest.discard()

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        stored, content = self._find(blob)
        for wanted in ranges:
            if wanted.end > stored.size_bytes:
                raise DataLoss(f"blob {blob} has {stored.size_bytes} bytes, {wanted.end} were expected")
        return [content[wanted.offset : wanted.end] for wanted in ranges]

    async def stat(self, blob: BlobId) -> StoredBlob:
        return self._find(blob)[0]

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        for blob in sorted(blob for blob in self._blobs if blob.startswith(prefix) and blob > after):
            if blob in self._blobs:  # not deleted meanwhile
                yield self._blobs[blob][0]

    async def delete(self, blob: BlobId) -> None:
        if blob in self._blobs:
            stored, _ = self._blobs.pop(blob)
            self._used_bytes -= stored.size_bytes

    async def usage(self) -> StoreUsage:
        if self._capacity_bytes is None:
            return StoreUsage(used_bytes=self._used_bytes, free_bytes=None)
        return StoreUsage(self._used_bytes, max(0, self._capacity_bytes - self._used_bytes))

    def take_room(self, size_bytes: int) -> None:
        """Count ``size_bytes`` more. Raises LimitExceeded (CAPACITY_EXHAUSTED)."""
        if self._capacity_bytes is not None and self._used_bytes + size_bytes > self._capacity_bytes:
            raise LimitExceeded(
                f"the store has no room for {size_bytes} more bytes", reason="CAPACITY_EXHAUSTED"
            )
        self._used_bytes += size_bytes

    def give_back_room(self, size_bytes: int) -> None:
        self._used_bytes -= size_bytes

    def publish(self, blob: BlobId, content: bytes) -> StoredBlob:
        """Make ``content``, whose room is taken, visible. Raises AlreadyExists."""
        if blob in self._blobs:
            raise AlreadyExists(f"blob {blob} exists already")
        self._commits += 1
        stored = StoredBlob(blob, len(content), self._clock(), str(self._commits))
        self._blobs[blob] = (stored, content)
        return stored

    def _find(self, blob: BlobId) -> tuple[StoredBlob, bytes]:
        try:
            return self._blobs[blob]
        except KeyError:
            raise NotFound(f"there is no blob {blob}") from None


class MemoryIngest(Ingest):
    """Collects copies of the buffers until `commit`."""

    def __init__(self, store: MemoryStore, blob: BlobId) -> None:
        self._store = store
        self._blob = blob
        self._pieces: list[bytes] = []
        self._taken_bytes = 0

    async def write(self, buffers: Sequence[Buffer]) -> None:
        pieces = [bytes(buffer) for buffer in buffers]
        size_bytes = sum(len(piece) for piece in pieces)
        self._store.take_room(size_bytes)
        self._taken_bytes += size_bytes
        self._pieces += pieces

    async def commit(self) -> StoredBlob:
        stored = self._store.publish(self._blob, b"".join(self._pieces))
        self._taken_bytes = 0
        self._pieces.clear()
        return stored

    def discard(self) -> None:
        """Give back what was not committed."""
        self._store.give_back_room(self._taken_bytes)
        self._taken_bytes = 0
        self._pieces.clear()
