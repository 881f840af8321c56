"""The objects of a project's buckets, one at a time: looked at, read, put and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from imsd.contract import BlobStore, Conflict, FailedPrecondition, StoredBlob
from imsd.core import checks
from imsd.core.buckets import Buckets
from imsd.core.export_target import ExportTargets
from imsd.core.feeds import FeedStep
from imsd.core.limits import MAX_WRITE_BYTES
from imsd.core.object_feed import ObjectSpan, OpenedObject, stat_object, version_mark
from imsd.core.object_place import ObjectPlace
from imsd.core.runtime import Runtime

from .object_put import NewObject, ObjectPut

FIELD: Final = "object"

# Pieces that all who read objects have in memory, each of `MAX_WRITE_BYTES`.
MAX_PIECES: Final = 16

# Objects that are written at once; more wait. What a driver collects before it writes takes its memory.
PUTS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class WantedBytes:
    """``length`` 0: all from ``offset`` on; ``etag`` empty: of whatever version is there."""

    offset: int = 0
    length: int = 0
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ObjectReading:
    """An object that is being read: ``length`` bytes of it come in ``steps``."""

    stored: StoredBlob
    length: int
    steps: AsyncIterator[FeedStep]


class BucketObjects:
    def __init__(self, runtime: Runtime, buckets: Buckets, targets: ExportTargets) -> None:
        self._runtime = runtime
        self._buckets = buckets
        self._targets = targets
        self._pieces = asyncio.Semaphore(MAX_PIECES)
        self._puts = asyncio.Semaphore(PUTS_AT_ONCE)
        self._waiting = 0

    async def stat(self, project_id: str, text: str) -> StoredBlob:
        """The object that ``text`` (BUCKET:OBJECT) names. Raises as `_find`."""
        _, stored = await self._find(project_id, text)
        return stored

    @asynccontextmanager
    async def reading(self, project_id: str, text: str, wanted: WantedBytes) -> AsyncIterator[ObjectReading]:
        """The bytes that are wanted, of one version. Raises as `_find`, InvalidRequest, Conflict."""
        store, stored = await self._find(project_id, text)
        require_version(stored, wanted.etag)
        end = _end_of(stored, wanted)
        span = ObjectSpan(stored, wanted.offset, end, MAX_WRITE_BYTES)
        opened = OpenedObject(store, span, self._pieces)
        steps = _of_one_version(opened)
        try:
            yield ObjectReading(stored, end - wanted.offset, steps)
        finally:
            await steps.aclose()

    @asynccontextmanager
    async def putting(self, project_id: str, new: NewObject) -> AsyncIterator[ObjectPut]:
        """An object in the making, when it is its turn; left without a commit, nothing of it is kept.

        Raises as `Buckets.writable`, InvalidRequest, AlreadyExists (OBJECT_EXISTS), LimitExceeded.
        """
        place = ObjectPlace.parse(FIELD, new.place)
        store = self._buckets.writable(project_id, place, FIELD)
        put = ObjectPut(self._runtime, store, place, new, self._targets)
        await put.require_possible()
        async with self._turn(), put.opened():
            yield put

    def is_place_wanted(self) -> bool:
        """Whether others wait to put an object."""
        return self._waiting > 0

    async def delete(self, project_id: str, text: str, etag: str) -> None:
        """``etag``: of the version that is to go; empty: any.

        Raises as `_find`, FailedPrecondition (STORE_READ_ONLY), Conflict.
        """
        place = ObjectPlace.parse(FIELD, text)
        store = self._buckets.writable(project_id, place, FIELD)
        async with self._targets.committing(place):
            require_version(await stat_object(store, place, FIELD), etag)
            await store.delete(place.name)

    async def _find(self, project_id: str, text: str) -> tuple[BlobStore, StoredBlob]:
        """Raises InvalidRequest, NotFound (BUCKET_NOT_FOUND, OBJECT_NOT_FOUND), Unavailable."""
        place = ObjectPlace.parse(FIELD, text)
        store = self._buckets.readable(checks.project_id(project_id), place, FIELD)
        return store, await stat_object(store, place, FIELD)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            await self._puts.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._puts.release()


def require_version(stored: StoredBlob, etag: str) -> None:
    """Raises Conflict when the object is not of the version that ``etag`` is of; empty: any."""
    if etag and etag != version_mark(stored):
        raise Conflict(
            f"the object {stored.id} is another one by now",
            field="etag",
            hint="look at it again, and begin anew",
        )


def _end_of(stored: StoredBlob, wanted: WantedBytes) -> int:
    if not 0 <= wanted.offset <= stored.size_bytes:
        checks.refuse("offset", f"the object has {stored.size_bytes} bytes, offset is {wanted.offset}")
    left = stored.size_bytes - wanted.offset
    if not 0 <= wanted.length <= left:
        checks.refuse("length", f"{left} bytes follow offset {wanted.offset}, length is {wanted.length}")
    return wanted.offset + (wanted.length or left)


async def _of_one_version(opened: OpenedObject) -> AsyncGenerator[FeedStep, None]:
    """Raises Conflict when the object changes meanwhile: another attempt may do better."""
    steps = opened.steps()
    try:
        async for step in steps:
            yield step
    except FailedPrecondition as error:
        raise Conflict(error.message, field=FIELD, hint="begin anew") from error
    finally:
        await steps.aclose()
