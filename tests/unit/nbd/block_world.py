"""A block server in the process of the test: stored disks, a store that can fail, attachments."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import content_blob, locations_blob
from imsd.contract import BlobId, BlobStore, ByteRange, Ingest, NotFound, StoredBlob, StoreUsage, Unavailable
from imsd.nbd.access_trace import TraceFiles
from imsd.nbd.attachment import Attachment, SocketRules
from imsd.nbd.attachments import Attachments, Rules
from imsd.nbd.cached_store import FetchedOnce
from imsd.nbd.decoded_chunks import DecodedChunks
from imsd.nbd.description import Description, DescriptionFiles
from imsd.nbd.disk import Memory
from imsd.nbd.disks import Disks, StoreAccess
from imsd.nbd.stored_bytes import StoredBytes
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import MIB, SparseDisk, World, noise, text
from tests.unit.chunks.stored_disk import get, put

DATA_KEY = bytes(range(32))
IMAGE_ID = "6a0b9f54-3d0f-4b6e-9d8e-0d9c3f2b1a00"


class WatchedStore(BlobStore):
    """Counts reads of packs; is out of reach when told to; lets no read through while ``gate`` is closed."""

    def __init__(self, store: BlobStore) -> None:
        self.inner = store
        self.reads: list[tuple[BlobId, ByteRange]] = []
        self.is_down = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        self._check()
        if blob.startswith("packs/"):
            self.reads += [(blob, each) for each in ranges]
        await self.gate.wait()
        self._check()
        return await self.inner.read(blob, ranges)

    async def stat(self, blob: BlobId) -> StoredBlob:
        self._check()
        return await self.inner.stat(blob)

    def begin(self, blob: BlobId) -> AbstractAsyncContextManager[Ingest]:
        return self.inner.begin(blob)

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        return self.inner.list(prefix, after)

    async def delete(self, blob: BlobId) -> None:
        await self.inner.delete(blob)

    async def usage(self) -> StoreUsage:
        return await self.inner.usage()

    def most_reads_of_a_byte(self) -> int:
        """In pieces of 512 bytes."""
        counts: Counter[tuple[BlobId, int]] = Counter()
        for blob, wanted in self.reads:
            counts.update((blob, at) for at in range(wanted.offset // 512, wanted.end // 512))
        return max(counts.values(), default=0)

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable("the store is out of reach", reason="STORE_UNAVAILABLE")


@dataclass
class BlockWorld:
    """``folder``: for everything, with a short path: sockets are in it.

    Fields may be changed before `start`.
    """

    folder: Path
    pool: DecodePool
    stores: dict[str, WatchedStore] = field(default_factory=dict)
    cache_bytes: int = 1 << 30
    memory_bytes: int = 32 * MIB
    store_wait_seconds: float = 20.0
    max_clients: int = 64
    max_attachments: int = 20
    digests: dict[str, str] = field(default_factory=dict)  # of what was put, by manifest

    def __post_init__(self) -> None:
        for name in ("main", "other"):
            self.stores[name] = WatchedStore(MemoryStore())
        self.worlds = {}
        for name, store in self.stores.items():
            self.worlds[name] = World(self.pool, store.inner, store_name=name)

    @property
    def store(self) -> WatchedStore:
        return self.stores["main"]

    async def put(self, disk: SparseDisk, store: str = "main", cipher: ChunkCipher | None = None) -> str:
        """The manifest that ``disk`` becomes."""
        result, written = await replace(self.worlds[store], cipher=cipher).store_disk(disk)
        self.digests[written.manifest_id] = result.digest
        return written.manifest_id

    async def supplant(self, manifest_id: str, by: str, store: str = "main") -> None:
        """Who can write to the store puts the manifest ``by`` in the place of another."""
        kept = self.stores[store].inner
        for part in (content_blob, locations_blob):
            await put(kept, part(manifest_id), await get(kept, part(by)))

    def description(
        self,
        manifest_id: str,
        size_bytes: int,
        attachment_id: str = "a1",
        *,
        cipher: ChunkCipher | None = None,
        store: str = "main",
    ) -> Description:
        """Of what was `put`."""
        binding = cipher.binding if cipher else ""
        digest = self.digests[manifest_id]
        return Description(attachment_id, "disk", store, manifest_id, size_bytes, digest, binding)

    async def start(self) -> None:
        (self.folder / "nbd").mkdir(exist_ok=True)
        self.cache = StoredBytes(self.folder / "cache", self.cache_bytes)
        self.cache.open()
        self.fetched = FetchedOnce(self.cache)
        memory = Memory(self.pool, DecodedChunks(self.memory_bytes // 2), self.store_wait_seconds)
        self.disks = Disks(StoreAccess(self._store, lambda name: self.cache_bytes > 0), memory, self.fetched)
        sockets = SocketRules(self.folder / "nbd", 0o660, -1, self.max_clients)
        rules = Rules(sockets=sockets, max_attachments=self.max_attachments, prefetch_limit=1 << 30)
        files = DescriptionFiles(self.folder / "attachments")
        self.attachments = Attachments(self.disks, files, TraceFiles(self.folder / "traces"), rules)
        await self.attachments.start()

    async def stop(self) -> None:
        await self.attachments.close()
        await self.fetched.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _store(self, name: str) -> BlobStore:
        if name not in self.stores:
            raise NotFound(f"there is no store {name}")
        return self.stores[name]

    async def attach(
        self,
        disk: SparseDisk,
        attachment_id: str = "a1",
        cipher: ChunkCipher | None = None,
        store: str = "main",
    ) -> Attachment:
        """Store ``disk`` and attach it."""
        manifest_id = await self.put(disk, store, cipher)
        return await self.attachments.attach(
            self.description(manifest_id, disk.size_bytes, attachment_id, cipher=cipher, store=store), cipher
        )

    async def attach_manifest(
        self, manifest_id: str, size_bytes: int, attachment_id: str = "a1", store: str = "main"
    ) -> Attachment:
        """Attach what is stored already, without encryption."""
        return await self.attachments.attach(
            self.description(manifest_id, size_bytes, attachment_id, store=store), None
        )

    def cache_files(self) -> list[bytes]:
        """What the cache on the disk has."""
        return [path.read_bytes() for path in (self.folder / "cache").iterdir()]

    def socket(self, attachment_id: str = "a1") -> str:
        return self.attachments.get(attachment_id).socket_path


@cache
def mixed_disk(size_bytes: int = 24 * MIB) -> SparseDisk:
    """Text, noise and holes, at odd places."""
    pieces = {
        0: text(1, 2 * MIB),
        5 * MIB + 512: noise(2, MIB + 1024),
        8 * MIB: text(3, 5 * MIB),
        size_bytes - 64 * 1024: text(4, 64 * 1024),
    }
    return SparseDisk(size_bytes, pieces)


def cipher() -> ChunkCipher:
    return ChunkCipher(DATA_KEY, IMAGE_ID)


async def run(*command: str | os.PathLike[str], check: bool = True) -> str:
    """What a program says; it must end well unless told otherwise."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert not check or process.returncode == 0, out.decode()
    return out.decode()


@asynccontextmanager
async def started(world: BlockWorld) -> AsyncIterator[BlockWorld]:
    await world.start()
    try:
        yield world
    finally:
        await world.stop()
