"""A wrapper that makes a store fail by plan: what does the code around it do then?

    store = FaultyStore(MemoryStore())
    store.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER, prefix="packs/"))

Faults are looked at in the order they were added; the first that matches a call and is not used up
is applied. ``store.calls`` counts every call, failed ones included.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from imsd.contract import (
    BlobId,
    BlobStore,
    Buffer,
    ByteRange,
    Ingest,
    StoredBlob,
    StoreUsage,
    Unavailable,
)

R = TypeVar("R")


class Call(StrEnum):
    """A call of `BlobStore` or `Ingest`."""

    BEGIN = "begin"
    WRITE = "write"
    COMMIT = "commit"
    READ = "read"
    STAT = "stat"
    LIST = "list"
    DELETE = "delete"
    USAGE = "usage"


class FaultKind(StrEnum):
    """What goes wrong."""

    RAISE_BEFORE = "raise before"  # nothing happened
    RAISE_AFTER = "raise after"  # it happened, and the caller cannot know
    SHORT_READ = "short read"  # the last range lacks its last byte: a store that breaks its promise
    CORRUPT = "corrupt"  # the lowest bit of the first byte is flipped, on its way in or out
    HANG = "hang"  # waits until `FaultyStore.release` or a cancellation, then goes on


def out_of_reach() -> Exception:
    return Unavailable("the store is out of reach", reason="STORE_UNAVAILABLE")


@dataclass(slots=True, kw_only=True)
class Fault:
    """One line of the plan.

    ``skip`` matching calls pass unharmed, then ``times`` calls fail (None: all of them). ``prefix``
    is compared with the blob's id (of `list`: with its prefix; `usage` has the empty id).
    """

    call: Call
    kind: FaultKind
    prefix: str = ""
    skip: int = 0
    times: int | None = 1
    error: Callable[[], Exception] = field(default=out_of_reach)

    def strikes(self, call: Call, blob: str) -> bool:
        """Whether this call is hit; counts it."""
        if call is not self.call or not blob.startswith(self.prefix):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class FaultyStore(BlobStore):
    """``store`` with faults."""

    def __init__(self, store: BlobStore, *faults: Fault) -> None:
        self.capabilities = store.capabilities
        self.calls: Counter[Call] = Counter()
        self.hanging = 0  # calls that wait for `release`
        self._store = store
        self._faults = list(faults)
        self._released = asyncio.Event()

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def heal(self) -> None:
        """Forget all faults and let hanging calls go on."""
        self._faults.clear()
        self.release()

    def release(self) -> None:
        """Let every call that hangs now, or will, go on."""
        self._released.set()

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        fault = await self._before(Call.BEGIN, blob)
        async with self._store.begin(blob) as ingest:
            self._after(fault)
            yield FaultyIngest(self, ingest, blob)

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        fault = await self._before(Call.READ, blob)
        pieces = await self._store.read(blob, ranges)
        self._after(fault)
        if fault and pieces and fault.kind is FaultKind.SHORT_READ:
            pieces[-1] = pieces[-1][:-1]
        if fault and pieces and fault.kind is FaultKind.CORRUPT:
            pieces[0] = flip_a_bit(pieces[0])
        return pieces

    async def stat(self, blob: BlobId) -> StoredBlob:
        return await self.apply(Call.STAT, blob, lambda: self._store.stat(blob))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        fault = await self._before(Call.LIST, prefix)
        async for stored in self._store.list(prefix, after):
            yield stored
        self._after(fault)

    async def delete(self, blob: BlobId) -> None:
        await self.apply(Call.DELETE, blob, lambda: self._store.delete(blob))

    async def usage(self) -> StoreUsage:
        return await self.apply(Call.USAGE, "", self._store.usage)

    async def write(self, ingest: Ingest, blob: BlobId, buffers: Sequence[Buffer]) -> None:
        """`Ingest.write` of an ingest of this store."""
        fault = await self._before(Call.WRITE, blob)
        if fault and fault.kind is FaultKind.CORRUPT:
            buffers = [flip_a_bit(b"".join(buffers))]
        await ingest.write(buffers)
        self._after(fault)

    async def apply(self, call: Call, blob: str, run: Callable[[], Awaitable[R]]) -> R:
        """Run a call between what goes wrong before and after it."""
        fault = await self._before(call, blob)
        result = await run()
        self._after(fault)
        return result

    async def _before(self, call: Call, blob: str) -> Fault | None:
        self.calls[call] += 1
        fault = next((fault for fault in self._faults if fault.strikes(call, blob)), None)
        if fault and fault.kind is FaultKind.RAISE_BEFORE:
            raise fault.error()
        if fault and fault.kind is FaultKind.HANG:
            self.hanging += 1
            try:
                await self._released.wait()
            finally:
                self.hanging -= 1
        return fault

    def _after(self, fault: Fault | None) -> None:
        if fault and fault.kind is FaultKind.RAISE_AFTER:
            raise fault.error()


class FaultyIngest(Ingest):
    """An ingest whose calls go through the plan of its store."""

    def __init__(self, store: FaultyStore, ingest: Ingest, blob: BlobId) -> None:
        self._store = store
        self._ingest = ingest
        self._blob = blob

    async def write(self, buffers: Sequence[Buffer]) -> None:
        await self._store.write(self._ingest, self._blob, buffers)

    async def commit(self) -> StoredBlob:
        return await self._store.apply(Call.COMMIT, self._blob, self._ingest.commit)


def flip_a_bit(content: bytes) -> bytes:
    """``content`` with the lowest bit of its first byte flipped."""
    return bytes([content[0] ^ 1]) + content[1:] if content else content
