"""The contract of a blob store: where imsd keeps its bytes.

Vocabulary: a *blob* is committed immutable bytes under an id; an *ingest* is a write in progress;
a *store* is one opened, configured place for blobs; a *driver* is the code for a kind of store.

Lifecycle of a blob::

    begin(id) --> ingest --write*--> commit --> visible, durable, immutable --> delete --> gone
                     |
                     '-- leaving the block without commit --> nothing, and no space taken

A *bucket* is a store of the users' own, and keeps nothing of imsd: files come and go there by other hands
too, and do not stay as they were committed.

What the core guarantees to a driver: ids match `BLOB_ID`; in a store, ids of packs are random and never
reused, and no id is a folder of another (never both ``a`` and ``a/b``);
one task at a time uses an ingest; `write` is not called after `commit`; every method may be
cancelled at an await; methods of the store itself are called concurrently.

What a driver guarantees to the core:

* **Visibility**: a blob is visible whole or not at all, first to `commit`'s return or earlier, to
  every reader of the store (read-after-write, list-after-write).
* **Durability**: when `commit` returns, the blob survives a power cut.
* **Discard**: an ingest that is left without commit, cancelled or killed with its process leaves no
  visible blob; the space it took is freed at the latest when the store is opened again.
* **Foreign blobs**: what somebody else put into a bucket is read like any other blob, if its name is an id;
  what is no plain blob (a link, a pipe, a name that is no id) is not there. `StoredBlob.version` tells when
  a blob was replaced.
* **Cancellation**: when a cancelled call raises, no thread of it still touches the caller's buffers.
* **Errors**: only `ImsError` classes, by the table in the driver; a message names the blob, never a
  secret. `CAPACITY_EXHAUSTED` when there is no room, `STORE_READ_ONLY` when writing is not allowed,
  `STORE_UNAVAILABLE` when trying again later may help.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, NewType

from .errors import InvalidRequest

BlobId = NewType("BlobId", str)

# Segments of ASCII letters, digits, '-', '_' and '.', none of which starts with a dot; at most 255 characters
# in all. What imsd names itself is in lower case; the objects of a bucket have the names that users give.
BLOB_ID = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\Z")

Buffer = bytes | bytearray | memoryview


def blob_id(text: str) -> BlobId:
    """Check ``text`` against `BLOB_ID`. Raises `InvalidRequest`."""
    if not BLOB_ID.match(text):
        raise InvalidRequest(f"{text[:80]!r} is not a blob id", field="blob_id")
    return BlobId(text)


class ByteRange(NamedTuple):
    """``length`` bytes from ``offset``; both in bytes, offset 0 or more, length 1 or more."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A committed blob: its size in bytes and when it was committed (UTC).

    ``version``: another one when other bytes have the id; up to 200 characters, empty if the store cannot
    tell.
    """

    id: BlobId
    size_bytes: int
    modified_at: datetime
    version: str = ""


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Bytes used by blobs and bytes free for more; None when the store cannot tell."""

    used_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCapabilities:
    """What a store does natively. The core emulates or does without the rest.

    ``put_if_absent``: of two commits under one id exactly one wins, the other gets ALREADY_EXISTS.
    """

    put_if_absent: bool = False
    server_side_copy: bool = False
    presigned_urls: bool = False


class Ingest(ABC):
    """A write in progress. Bytes appear in the order of the calls."""

    @abstractmethod
    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Append ``buffers``; they may be reused when this returns.

        Raises LimitExceeded (CAPACITY_EXHAUSTED), Unavailable (STORE_UNAVAILABLE),
        FailedPrecondition (STORE_READ_ONLY).
        """

    @abstractmethod
    async def commit(self) -> StoredBlob:
        """Make the blob visible and durable.

        Raises what `write` raises, and AlreadyExists where the store can tell. After an
        Unavailable the outcome is unknown: the core compares `BlobStore.stat` with what it wrote.
        """


class BlobStore(ABC):
    """One opened place for blobs. Six required methods."""

    capabilities: StoreCapabilities = StoreCapabilities()

    @abstractmethod
    def begin(self, blob: BlobId) -> AbstractAsyncContextManager[Ingest]:
        """Open an ingest; leaving the block without `Ingest.commit` discards it."""

    @abstractmethod
    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range, in the order asked.

        Raises NotFound, DataLoss when a range ends beyond the blob, Unavailable.
        """

    @abstractmethod
    async def stat(self, blob: BlobId) -> StoredBlob:
        """Raises NotFound, Unavailable."""

    @abstractmethod
    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        """Committed blobs whose id starts with ``prefix`` and sorts after ``after``, in id order.

        A blob committed or deleted meanwhile may or may not appear; all others appear exactly once.
        """

    @abstractmethod
    async def delete(self, blob: BlobId) -> None:
        """Remove a blob; removing a missing one is no error. Reads that run may fail."""

    @abstractmethod
    async def usage(self) -> StoreUsage:
        """Raises Unavailable."""
