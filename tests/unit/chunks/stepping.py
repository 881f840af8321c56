"""Work that goes on one call at a time: actors whose every call of a store or an index waits for a step.

An actor that is not stepped is frozen, as a process is that was stopped or cut off; one that is
cancelled at a gate was killed there. Nothing runs in a thread, so that a run can be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import ChunkIndex, Doomed, Holder, IndexedChunk, Location
from imsd.contract import BlobId, BlobStore, Buffer, ByteRange, Ingest, StoredBlob, StoreUsage
from imsd.formats.source import NeedBytes

P = ParamSpec("P")
R = TypeVar("R")

# Turns of the event loop without any change, after which nothing more will happen by itself.
QUIET_TURNS = 25
MAX_TURNS = 100_000


class InlinePool(DecodePool):
    """Calls functions where it stands."""

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with AsyncExitStack() as at_hand:
            while True:
                await asyncio.sleep(0)
                try:
                    return function(*args, **kwargs)
                except NeedBytes as need:
                    await at_hand.enter_async_context(need.source.fetching(need.ranges))


class Gate:
    """Calls wait here, before they happen and, if what they do cannot be undone, before they return."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0  # calls that happen now

    async def pass_through(self, call: Callable[[], Awaitable[R]], *, is_final: bool = True) -> R:
        await self._wait()
        self.running += 1
        try:
            result = await call()
        finally:
            self.running -= 1
        if is_final:
            await self._wait()
        return result

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        finally:
            if turn in self.waiting:
                self.waiting.remove(turn)

    def open_once(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class Actor:
    """A task behind a gate."""

    def __init__(self, name: str, gate: Gate, work: Coroutine[Any, Any, None]) -> None:
        self.name = name
        self.gate = gate
        self.task = asyncio.ensure_future(work)

    async def step(self, steps: int) -> None:
        """Let the next ``steps`` calls go, one after the other."""
        for _ in range(steps):
            await self.settle()
            if self.task.done():
                return
            self.gate.open_once()
        await self.settle()

    async def finish(self) -> None:
        while not self.task.done():
            await self.step(1)

    async def settle(self) -> None:
        """Wait until the task is done or every one of its calls waits at the gate."""
        quiet = 0
        for _ in range(MAX_TURNS):
            if self.task.done() or quiet == QUIET_TURNS:
                return
            is_quiet = bool(self.gate.waiting) and not self.gate.running
            quiet = quiet + 1 if is_quiet else 0
            await asyncio.sleep(0.0002 if self.gate.running else 0)
        raise AssertionError(f"{self.name} neither ends nor waits at its gate")

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


class GatedStore(BlobStore):
    def __init__(self, store: BlobStore, gate: Gate) -> None:
        self.capabilities = store.capabilities
        self._store = store
        self._gate = gate

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        async with self._store.begin(blob) as ingest:
            yield GatedIngest(ingest, self._gate)

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        return await self._gate.pass_through(lambda: self._store.read(blob, ranges), is_final=False)

    async def stat(self, blob: BlobId) -> StoredBlob:
        return await self._gate.pass_through(lambda: self._store.stat(blob), is_final=False)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        async def listed() -> list[StoredBlob]:
            return [stored async for stored in self._store.list(prefix, after)]

        for stored in await self._gate.pass_through(listed):
            yield stored

    async def delete(self, blob: BlobId) -> None:
        await self._gate.pass_through(lambda: self._store.delete(blob))

    async def usage(self) -> StoreUsage:
        return await self._store.usage()


class GatedIngest(Ingest):
    def __init__(self, ingest: Ingest, gate: Gate) -> None:
        self._ingest = ingest
        self._gate = gate

    async def write(self, buffers: Sequence[Buffer]) -> None:
        await self._ingest.write(buffers)

    async def commit(self) -> StoredBlob:
        return await self._gate.pass_through(self._ingest.commit)


class GatedIndex(ChunkIndex):
    def __init__(self, index: ChunkIndex, gate: Gate) -> None:
        self._index = index
        self._gate = gate

    async def begin_pack(self, holder: Holder, pack_id: str, store: str) -> None:
        await self._gate.pass_through(lambda: self._index.begin_pack(holder, pack_id, store))

    async def commit_pack(
        self, holder: Holder, domain: str, pack_id: str, size_bytes: int, chunks: Sequence[IndexedChunk]
    ) -> None:
        await self._gate.pass_through(
            lambda: self._index.commit_pack(holder, domain, pack_id, size_bytes, chunks)
        )

    async def find(
        self, holder: Holder, store: str, domain: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, Location]:
        return await self._gate.pass_through(lambda: self._index.find(holder, store, domain, digests))

    async def hold_packs_of(self, holder: Holder, manifest_id: str) -> None:
        await self._gate.pass_through(lambda: self._index.hold_packs_of(holder, manifest_id))

    async def begin_manifest(self, holder: Holder, manifest_id: str, store: str) -> None:
        await self._gate.pass_through(lambda: self._index.begin_manifest(holder, manifest_id, store))

    async def distrust(self, packs: Iterable[str]) -> None:
        await self._gate.pass_through(lambda: self._index.distrust(packs))

    async def release(self, holder: Holder) -> None:
        await self._gate.pass_through(lambda: self._index.release(holder))

    async def condemn(self, store: str, limit: int = 1000) -> tuple[Sequence[Doomed], Sequence[Doomed]]:
        return await self._gate.pass_through(lambda: self._index.condemn(store, limit))

    async def forget(self, manifests: Iterable[str], packs: Iterable[str]) -> None:
        await self._gate.pass_through(lambda: self._index.forget(manifests, packs))

    async def known(self, manifests: Sequence[str], packs: Sequence[str]) -> tuple[set[str], set[str]]:
        return await self._gate.pass_through(lambda: self._index.known(manifests, packs))

    async def hold_manifest(self, holder: Holder, manifest_id: str) -> str:
        return await self._gate.pass_through(lambda: self._index.hold_manifest(holder, manifest_id))
