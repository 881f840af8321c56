"""What an ingest needs: sparse disks in memory, a store, an index, and a look at what came of it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry, EntrySink
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.ingest_state import IngestResult
from imsd.chunks.manifest_writer import ManifestWriter, WrittenManifest
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobStore
from imsd.formats.source import BlockSource, Extent
from imsd.testing.memory_index import MemoryChunkIndex
from imsd.testing.memory_store import MemoryStore

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
JOB = Holder(HolderKind.JOB, "job-1", 1)


def noise(seed: int, length: int) -> bytes:
    """Bytes that do not shrink."""
    return random.Random(seed).randbytes(length)


def text(seed: int, length: int) -> bytes:
    """Bytes that shrink, different for every seed."""
    words = [random.Random(seed + n).randbytes(3).hex().encode() for n in range(64)]
    generator = random.Random(seed)
    return b" ".join(generator.choices(words, k=length // 7 + 1))[:length]


class SparseDisk(BlockSource):
    """``pieces``: bytes by their offset; everything between them is known to be zero."""

    def __init__(self, size_bytes: int, pieces: dict[int, bytes], *, tells_zeros: bool = True) -> None:
        self.size_bytes = size_bytes
        self.pieces = dict(sorted(pieces.items()))
        self._tells_zeros = tells_zeros
        self.read_bytes = 0

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        end = start + length
        if not self._tells_zeros:
            return [Extent(start, length, False)]
        found, position = [], start
        for offset, piece in self.pieces.items():
            first, last = max(offset, position), min(offset + len(piece), end)
            if first < last:
                if position < first:
                    found.append(Extent(position, first - position, True))
                found.append(Extent(first, last - first, False))
                position = last
        if position < end:
            found.append(Extent(position, end - position, True))
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        buffer[:] = bytes(len(buffer))
        for start, piece in self.pieces.items():
            first, last = max(start, offset), min(start + len(piece), end)
            if first < last:
                buffer[first - offset : last - offset] = piece[first - start : last - start]
        self.read_bytes += len(buffer)

    def content(self) -> bytes:
        whole = bytearray(self.size_bytes)
        self.read_into(0, memoryview(whole))
        return bytes(whole)

    def digest(self) -> str:
        hasher = TreeHasher()
        for extent in self.extents(0, self.size_bytes):
            if extent.is_zero:
                hasher.zeros(extent.length)
            else:
                piece = bytearray(extent.length)
                self.read_into(extent.start, memoryview(piece))
                hasher.update(piece)
        return hasher.digest()


class ListSink(EntrySink):
    def __init__(self) -> None:
        self.entries: list[ChunkEntry] = []

    async def add(self, entries: Sequence[ChunkEntry]) -> None:
        self.entries += entries


@dataclass
class World:
    """A store and an index, and what all ingests into them share."""

    pool: DecodePool
    store: BlobStore = field(default_factory=MemoryStore)
    index: MemoryChunkIndex = field(default_factory=MemoryChunkIndex)
    holder: Holder = JOB
    store_name: str = "main"
    cipher: ChunkCipher | None = None

    @property
    def target(self) -> IngestTarget:
        domain = self.cipher.domain if self.cipher else "project-1"
        return IngestTarget(self.store, self.store_name, self.index, domain, self.holder, self.cipher)

    async def store_disk(self, disk: BlockSource) -> tuple[IngestResult, WrittenManifest]:
        """Store ``disk`` whole, with its manifest."""
        async with (
            ManifestWriter(self.target) as writer,
            DiskIngest(self.pool, self.target, writer) as ingest,
        ):
            await ingest.copy_from(disk)
            result = await ingest.finish(disk.size_bytes)
            return result, await writer.commit(disk.size_bytes, result.digest)

    async def read_back(self, manifest_id: str) -> bytes:
        """The whole disk of a manifest, every chunk checked."""
        async with open_chunk_reader(self.store, manifest_id, self.pool, cipher=self.cipher) as reader:
            content = bytearray(reader.size_bytes)
            for start in range(0, len(content), MIB):
                piece = memoryview(content)[start : start + MIB]
                await self.pool.run(reader.read_into, start, piece)
            return bytes(content)

    async def blobs(self, prefix: str = "") -> list[str]:
        return [stored.id async for stored in self.store.list(prefix)]

    def stored_bytes(self) -> int:
        return sum(row.size_bytes for row in self.index.packs.values())

    async def budget_is_whole(self) -> bool:
        """All windows have been given back."""
        budget = self.pool.budget
        await budget.acquire(budget.limit)
        budget.release(budget.limit)
        return True


def outline(entries: Iterable[ChunkEntry]) -> list[tuple[int, int, bytes]]:
    """What does not depend on where chunks are stored."""
    return [(entry.start, entry.length, entry.digest) for entry in entries]
