"""A promise of the contract of stores, and the place in a store where it is tried.

A check is a coroutine function that uses a `Place` and raises `BrokenPromise` when the store does otherwise
than `imsd.contract.blob_store` says, `NotOffered` when the store does not offer what is checked. Its name and
the first line of its docstring are what people read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass

from imsd.contract import BlobId, BlobStore, Buffer, ByteRange, Ingest, StoredBlob, blob_id

MIB = 1 << 20
MAX_ID = 255

# The blob of a check that needs one.
BLOB = "00d1e5"


class BrokenPromise(AssertionError):
    """The store does not do what the contract says; the message says what it did."""


class NotOffered(Exception):
    """The store says that it does not offer this, or it cannot be seen here; the message says which."""


class Place:
    """Where a check may write: every blob below ``prefix``, which is empty or ends with a slash.

    Blobs are named without the prefix. ``kept``: what a read gives for what was written; only a store that
    keeps no bytes needs another.
    """

    def __init__(
        self, store: BlobStore, prefix: str = "", kept: Callable[[bytes], bytes] = lambda written: written
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.kept = kept

    @property
    def longest(self) -> int:
        """How many characters an id may have here."""
        return MAX_ID - len(self.prefix)

    def id(self, blob: str) -> BlobId:
        return blob_id(self.prefix + blob)

    def begin(self, blob: str) -> AbstractAsyncContextManager[Ingest]:
        return self.store.begin(self.id(blob))

    async def put(self, blob: str, *writes: Buffer) -> StoredBlob:
        """Commit a blob, one call of `Ingest.write` for each of ``writes``."""
        async with self.begin(blob) as ingest:
            for buffer in writes:
                await ingest.write([buffer])
            return await ingest.commit()

    async def read(self, blob: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        return await self.store.read(self.id(blob), ranges)

    async def content(self, blob: str) -> bytes:
        """The whole of a blob that is not empty."""
        size_bytes = (await self.stat(blob)).size_bytes
        return (await self.read(blob, [ByteRange(0, size_bytes)]))[0]

    async def stat(self, blob: str) -> StoredBlob:
        return await self.store.stat(self.id(blob))

    async def delete(self, blob: str) -> None:
        await self.store.delete(self.id(blob))

    async def ids(self, prefix: str = "", after: str = "") -> list[str]:
        """What `BlobStore.list` gives, in its order."""
        listed = self.store.list(self.prefix + prefix, self.prefix + after if after else "")
        return [stored.id.removeprefix(self.prefix) async for stored in listed]

    async def clear(self) -> None:
        """Delete everything here."""
        for blob in await self.ids():
            await self.delete(blob)


Check = Callable[[Place], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Promise:
    """``name``: words joined by underscores; ``summary``: a sentence."""

    name: str
    summary: str
    check: Check

    @classmethod
    def of(cls, check: Check) -> Promise:
        name = check.__name__
        return cls(name, (check.__doc__ or "").partition("\n")[0], check)


def demand(is_kept: object, said: str) -> None:
    """Raises BrokenPromise with ``said``, what the store did, unless ``is_kept``."""
    if not is_kept:
        raise BrokenPromise(said)


def demand_equal(found: object, expected: object, what: str) -> None:
    """As `demand`; of long values the message has the beginning."""
    if found != expected:
        raise BrokenPromise(f"{what}: {_short(found)}, and {_short(expected)} was expected")


@contextmanager
def refused(*conditions: type[Exception], what: str) -> Iterator[None]:
    """The block raises one of ``conditions``. Raises BrokenPromise if it raises nothing."""
    try:
        yield
    except conditions:
        return
    raise BrokenPromise(
        f"{what}: no error, and {' or '.join(each.__name__ for each in conditions)} was expected"
    )


async def cancel_after(turns: int, task: asyncio.Task[object]) -> None:
    """Let ``task`` run for some turns of the loop, cancel it, and wait for its end."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
