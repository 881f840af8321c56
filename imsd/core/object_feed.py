"""An object of a bucket as a feed: read in pieces, the next one ahead.

Objects are the users' own, so one may be replaced while it is read. Its version is compared now and then, and
once more when the last byte was read: what was read is then of one object, or nothing comes of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from imsd.contract import (
    BlobStore,
    ByteRange,
    DataLoss,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    StoredBlob,
)

from .buckets import Buckets
from .feeds import Feed, FeedStep, OpenedFeed, with_zeros
from .limits import MAX_WRITE_BYTES
from .object_place import ObjectPlace

FIELD: Final = "object"

# What is read at once, and how many of a file are in memory.
PIECE_BYTES: Final = 4 << 20
PIECES_AHEAD: Final = 2

# Pieces that all feeds together have in memory.
MAX_PIECES: Final = 12

# After so many bytes it is asked whether the object is still the same.
CHECK_BYTES: Final = 256 << 20


class ObjectReads:
    """What reads of objects share: the buckets, and the room for pieces."""

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self.places = asyncio.Semaphore(MAX_PIECES)


class ObjectFeed(Feed):
    """The object ``text`` (BUCKET:OBJECT) names to a project."""

    def __init__(self, reads: ObjectReads, project_id: str, text: str) -> None:
        """Raises as `ObjectPlace.parse` and `Buckets.source`."""
        self._place = ObjectPlace.parse(FIELD, text)
        self._store = reads.buckets.source(project_id, self._place, FIELD)
        self._places = reads.places
        self.name = self._place.name.rpartition("/")[2]

    async def known_size(self) -> int:
        return (await self._stat()).size_bytes

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[OpenedFeed]:
        stored = await self._stat()
        span = ObjectSpan(stored, offset, stored.size_bytes)
        yield OpenedObject(self._store, span, self._places)

    async def _stat(self) -> StoredBlob:
        """Raises NotFound (OBJECT_NOT_FOUND), InvalidRequest (IMAGE_EMPTY), Unavailable."""
        stored = await stat_object(self._store, self._place, FIELD)
        if not stored.size_bytes:
            raise InvalidRequest(
                f"the object {self._place} is empty",
                reason="IMAGE_EMPTY",
                field=FIELD,
                hint="name an object that holds a disk",
            )
        return stored


async def stat_object(store: BlobStore, place: ObjectPlace, field: str) -> StoredBlob:
    """Raises NotFound (OBJECT_NOT_FOUND), Unavailable."""
    try:
        return await store.stat(place.name)
    except NotFound as error:
        raise NotFound(
            f"there is no object {place}",
            reason="OBJECT_NOT_FOUND",
            field=field,
            hint=f"`imsctl object list {place.bucket}` shows what is there",
        ) from error


def version_mark(stored: StoredBlob) -> str:
    """64 hex digits, others when the object was replaced."""
    told = f"{stored.id} {stored.size_bytes} {stored.modified_at.isoformat()} {stored.version}"
    return sha256(told.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ObjectSpan:
    """The bytes of ``stored`` from ``start`` to before ``end``, read ``piece_bytes`` at once."""

    stored: StoredBlob
    start: int
    end: int
    piece_bytes: int = PIECE_BYTES


class OpenedObject(OpenedFeed):
    """``places``: for pieces in memory."""

    def __init__(self, store: BlobStore, span: ObjectSpan, places: asyncio.Semaphore) -> None:
        self.size_bytes = span.stored.size_bytes
        self.mark = f"object:{version_mark(span.stored)}"
        self._store = store
        self._stored = span.stored
        self._span = span
        self._places = places

    def require_same(self, mark: str) -> None:
        if mark != self.mark:
            raise _changed()

    async def steps(self) -> AsyncGenerator[FeedStep, None]:
        size, start, unchecked = self._span.end, self._span.start, 0
        coming: deque[asyncio.Task[bytes]] = deque()
        try:
            while coming or start < size:
                while start < size and len(coming) < PIECES_AHEAD and not (coming and self._places.locked()):
                    await self._places.acquire()
                    end = min(start + self._span.piece_bytes, size)
                    coming.append(asyncio.create_task(self._read(ByteRange(start, end - start))))
                    start = end
                content = memoryview(await coming[0])
                for at in range(0, len(content), MAX_WRITE_BYTES):
                    yield with_zeros(content[at : at + MAX_WRITE_BYTES])
                unchecked += len(content)
                del content
                coming.popleft()
                self._places.release()
                if unchecked >= CHECK_BYTES:
                    await self._require_unchanged()
                    unchecked = 0
            await self._require_unchanged()
        finally:
            for task in coming:
                task.cancel()
                self._places.release()
            await asyncio.gather(*coming, return_exceptions=True)

    async def _read(self, wanted: ByteRange) -> bytes:
        try:
            return (await self._store.read(self._stored.id, [wanted]))[0]
        except (DataLoss, NotFound):
            await self._require_unchanged()  # it became shorter, or is gone
            raise

    async def _require_unchanged(self) -> None:
        """Raises FailedPrecondition, and what the store raises."""
        try:
            now = await self._store.stat(self._stored.id)
        except NotFound as error:
            raise _changed() from error
        if now != self._stored:
            raise _changed()


def _changed() -> FailedPrecondition:
    return FailedPrecondition(
        "the object was changed while it was read",
        field=FIELD,
        hint="start again when nothing replaces it any more",
    )
