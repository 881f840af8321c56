"""An object in the making: bytes in order, then a commit that replaces nothing.

The end of what a client sends means nothing: a client that died looks like one that is done. Only the commit,
with the number of bytes and perhaps their SHA-256, makes an object of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from imsd.contract import (
    AlreadyExists,
    BlobStore,
    Buffer,
    DataLoss,
    Ingest,
    InvalidRequest,
    LimitExceeded,
    StoredBlob,
    Unavailable,
)
from imsd.core import checks, limits
from imsd.core.export_target import (
    ExportedObject,
    ExportTargets,
    is_there,
    object_exists,
    require_free,
    write_hashed,
)
from imsd.core.object_place import ObjectPlace
from imsd.core.runtime import Runtime

FIELD: Final = "object"

# A writer that sends nothing for so long gives its place to those who wait.
IDLE_SECONDS: Final = 30.0

_ZEROS: Final = bytes(1 << 20)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewObject:
    """``place``: BUCKET:OBJECT; ``size_bytes``: of all of it, None when that shows only at its end."""

    place: str
    size_bytes: int | None


class ObjectPut:
    """Write in order, then `commit`."""

    def __init__(
        self, runtime: Runtime, store: BlobStore, place: ObjectPlace, new: NewObject, targets: ExportTargets
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._place = place
        self._declared = new.size_bytes
        self._targets = targets
        self._hasher = hashlib.sha256()
        self._size = 0
        self._ingest: Ingest | None = None

    async def require_possible(self) -> None:
        """Before any byte.

        Raises InvalidRequest, LimitExceeded, AlreadyExists (OBJECT_EXISTS), Unavailable.
        """
        if self._declared is not None:
            if self._declared < 0:
                checks.refuse("size_bytes", "an object has 0 bytes or more")
            self._require_within_limit(self._declared)
        await require_free(self._store, self._place, FIELD)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """`write` and `commit` belong into the block. Raises what the store raises."""
        async with self._store.begin(self._place.name) as self._ingest:
            yield

    async def write(self, data: Buffer) -> None:
        """Take the next 1 to `limits.MAX_WRITE_BYTES` bytes.

        Raises InvalidRequest, LimitExceeded (also CAPACITY_EXHAUSTED), and what the store raises.
        """
        if not 1 <= len(data) <= limits.MAX_WRITE_BYTES:
            checks.refuse("data", f"a message has 1 to {limits.MAX_WRITE_BYTES} bytes of data")
        self._count(len(data))
        await self._append(data)

    async def write_zeros(self, length: int) -> None:
        """Take so many zeros; raises as `write`."""
        if length < 1:
            checks.refuse("zero_length", "zero_length is 1 or more")
        self._count(length)
        while length:
            taken = min(length, len(_ZEROS))
            await self._append(memoryview(_ZEROS)[:taken])
            length -= taken

    async def commit(self, size_bytes: int, expected_sha256: str) -> tuple[StoredBlob, str]:
        """Make it an object; returns it and its SHA-256.

        Raises InvalidRequest (also UPLOAD_INCOMPLETE, DIGEST_MISMATCH), AlreadyExists (OBJECT_EXISTS),
        and what the store raises.
        """
        self._require_whole(size_bytes)
        found = self._hasher.hexdigest()
        _require_sha256(found, expected_sha256)
        async with self._targets.committing(self._place):
            await require_free(self._store, self._place, FIELD)
            return await self._commit(found), found

    async def _commit(self, found: str) -> StoredBlob:
        assert self._ingest is not None, "it is open"
        try:
            stored = await self._ingest.commit()
        except AlreadyExists as error:
            taken = f"the name {self._place} is taken, by an object or something else"
            raise object_exists(taken, FIELD) from error
        except Unavailable:
            if not await is_there(
                self._store, self._place, ExportedObject(str(self._place), self._size, found)
            ):
                raise
            stored = await self._store.stat(self._place.name)
        if stored.size_bytes != self._size:
            raise DataLoss(f"the object {self._place} has {stored.size_bytes} bytes, {self._size} were sent")
        return stored

    async def _append(self, data: Buffer) -> None:
        assert self._ingest is not None, "it is open"
        await write_hashed(self._runtime.pool, self._ingest, [data], self._hasher)

    def _count(self, length: int) -> None:
        size = self._size + length
        if self._declared is not None and size > self._declared:
            raise InvalidRequest(
                f"more than the {self._declared} bytes that were declared came",
                reason="UPLOAD_TOO_LONG",
                hint="declare the size of the whole object, or none",
            )
        self._require_within_limit(size)
        self._size = size

    def _require_within_limit(self, size: int) -> None:
        largest = self._runtime.limits.max_upload_size_bytes
        if size > largest:
            raise LimitExceeded(
                f"the object has {size} bytes or more, a file that is sent has at most {largest}",
                field="size_bytes",
                hint="put a smaller file, or ask the operator to raise max_upload_size_bytes",
            )

    def _require_whole(self, size_bytes: int) -> None:
        wanted = size_bytes if self._declared is None else self._declared
        if not self._size == size_bytes == wanted:
            raise InvalidRequest(
                f"{self._size} bytes came, {wanted} were declared and {size_bytes} committed",
                reason="UPLOAD_INCOMPLETE",
                field="size_bytes",
                hint="send all bytes before the commit, from the first one on",
            )


async def awaited(coming: AsyncIterator[T], is_place_wanted: Callable[[], bool]) -> AsyncIterator[T]:
    """What a writer sends, as it comes.

    Raises Unavailable when it sends nothing for `IDLE_SECONDS` while others wait for its place.
    """
    while True:
        reading = asyncio.ensure_future(anext(coming, None))
        try:
            while not (await asyncio.wait([reading], timeout=IDLE_SECONDS))[0]:
                if is_place_wanted():
                    raise Unavailable(
                        f"the writer has sent nothing for {IDLE_SECONDS:.0f} seconds, and others wait",
                        hint="begin again when the bytes are there",
                    )
        finally:
            reading.cancel()  # no harm when it is done
        step = reading.result()
        if step is None:
            return
        yield step


def _require_sha256(found: str, expected: str) -> None:
    if not expected:
        return
    if not limits.SHA256.match(expected):
        checks.refuse("expected_sha256", "a SHA-256 has 64 lower-case hex digits")
    if found != expected:
        raise InvalidRequest(
            f"the SHA-256 of what came is {found}",
            reason="DIGEST_MISMATCH",
            field="expected_sha256",
            hint="check the file, and send it again",
        )
