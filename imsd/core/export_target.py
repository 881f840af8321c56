"""The object that an export makes: absent before, whole after, and known again after a crash.

What is about to be committed is noted in the job's row first, with its size and SHA-256. So a job that runs
again knows an object that an earlier run made, and one that is cancelled or fails removes that, and no other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import (
    AlreadyExists,
    BlobId,
    BlobStore,
    Buffer,
    ByteRange,
    DataLoss,
    Ingest,
    NotFound,
    StoredBlob,
    Unavailable,
    run_blocking,
)
from imsd.formats.output import Output, Zeros
from imsd.metadata import jobs as job_rows

from .job_run import JobRun
from .object_place import ObjectPlace

FIELD: Final = "target"

_ZEROS = bytes(1 << 20)
_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class ExportedObject:
    """What an export wrote; ``target``: BUCKET:OBJECT, ``sha256``: hex."""

    target: str
    size_bytes: int
    sha256: str

    @classmethod
    def of_result(cls, result: Any) -> Self | None:
        """What the row of a job says of it; None before a commit was tried."""
        return cls(**result) if result else None


class ExportTargets:
    """One for a daemon: of two that write an object of one name, one is at its commit at a time."""

    def __init__(self) -> None:
        self._commits: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def committing(self, place: ObjectPlace) -> AsyncIterator[None]:
        lock = self._commits.setdefault(str(place), asyncio.Lock())
        async with lock:
            yield


async def require_free(store: BlobStore, place: ObjectPlace, field: str = FIELD) -> None:
    """``field``: of the request that names the object. Raises AlreadyExists (OBJECT_EXISTS), Unavailable."""
    folders = place.name.split("/")[:-1]
    for count in range(1, len(folders) + 1):
        if await _find(store, BlobId("/".join(folders[:count]))):
            raise object_exists(
                f"{place.bucket}:{'/'.join(folders[:count])} is an object, and no folder", field
            )
    if await _find(store, place.name):
        raise object_exists(f"the object {place} exists", field)
    async for _ in store.list(f"{place.name}/"):
        raise object_exists(f"{place} is a folder of objects", field)


async def write_object(
    run: JobRun,
    store: BlobStore,
    place: ObjectPlace,
    pieces: AsyncIterator[Sequence[Output]],
    targets: ExportTargets,
) -> ExportedObject:
    """Write ``pieces`` as the object.

    Raises AlreadyExists (OBJECT_EXISTS), Conflict, and what the pieces and the store raise.
    """
    hasher, size = hashlib.sha256(), 0
    async with store.begin(place.name) as ingest:
        async for outputs in pieces:
            for buffers in _buffers(outputs):
                await write_hashed(run.runtime.pool, ingest, buffers, hasher)
                size += sum(map(len, buffers))
        written = ExportedObject(str(place), size, hasher.hexdigest())
        run.enter("commit", 0, (99.0, 100.0))
        async with targets.committing(place):
            await require_free(store, place)
            await _note(run, asdict(written))
            await _commit(run, store, ingest, place, written)
    return written


async def is_there(store: BlobStore, place: ObjectPlace, written: ExportedObject) -> bool:
    """Whether the object is the one that was ``written``, to the last byte. Raises what the store raises."""
    found = await _find(store, place.name)
    if found is None or found.size_bytes != written.size_bytes:
        return False
    hasher = hashlib.sha256()
    for start in range(0, found.size_bytes, _READ_BYTES):
        length = min(_READ_BYTES, found.size_bytes - start)
        try:
            [piece] = await store.read(found.id, [ByteRange(start, length)])
        except (NotFound, DataLoss):  # it is another one by now
            return False
        await run_blocking(hasher.update, piece)
    return hasher.hexdigest() == written.sha256


async def write_hashed(pool: DecodePool, ingest: Ingest, buffers: Sequence[Buffer], hasher: Any) -> None:
    """Write and hash at once. Raises what the store raises."""
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(ingest.write(buffers))
            both.create_task(pool.run(_hash, hasher, buffers))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _commit(
    run: JobRun, store: BlobStore, ingest: Ingest, place: ObjectPlace, written: ExportedObject
) -> None:
    try:
        stored = await ingest.commit()
    except AlreadyExists as error:
        await _note(run, {})  # that one is somebody else's, whatever it holds
        # An empty folder, a link and whatever else is no object has shown only now.
        raise object_exists(f"the name {place} is taken, by an object or something else") from error
    except Unavailable:
        if await is_there(store, place, written):
            return
        raise
    if stored.size_bytes != written.size_bytes:
        raise DataLoss(f"the object {place} has {stored.size_bytes} bytes, {written.size_bytes} were written")


async def _note(run: JobRun, result: dict[str, Any]) -> None:
    async with run.runtime.database.transaction() as c:
        await run.require_fence(c)
        await job_rows.note_result(c, run.record.id, result)


async def _find(store: BlobStore, name: BlobId) -> StoredBlob | None:
    try:
        return await store.stat(name)
    except NotFound:
        return None


def _buffers(outputs: Sequence[Output]) -> list[list[Buffer]]:
    """``outputs`` in groups, each written at once: runs of zeros are not made larger than they need be."""
    groups: list[list[Buffer]] = [[]]
    for output in outputs:
        if not isinstance(output, Zeros):
            assert isinstance(output, bytes | bytearray | memoryview), "frames were not asked for"
            groups[-1].append(output)
            continue
        whole, rest = divmod(output.length, len(_ZEROS))
        groups += [[_ZEROS] for _ in range(whole)]
        groups.append([memoryview(_ZEROS)[:rest]] if rest else [])
    return [group for group in groups if group]


def _hash(hasher: Any, buffers: Sequence[Buffer]) -> None:
    for buffer in buffers:
        hasher.update(buffer)


def object_exists(what: str, field: str = FIELD) -> AlreadyExists:
    return AlreadyExists(
        what,
        reason="OBJECT_EXISTS",
        field=field,
        hint="nothing is ever replaced: choose another name, or delete what is there",
    )
