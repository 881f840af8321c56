"""Writes small disks into a store by the letter of `imsd.chunks.layout`, to be read, or damaged and read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import zstandard
from blake3 import blake3

from imsd.chunks.index import Codec, content_blob, locations_blob, pack_blob
from imsd.chunks.layout import (
    CONTENT_ENTRY,
    CONTENT_MAGIC,
    FOOTER,
    LOCATION_ENTRY,
    LOCATIONS_MAGIC,
    PAGE_ENTRIES,
    PAGE_RECORD,
)
from imsd.chunks.tree_digest import TreeHasher, parse_digest
from imsd.contract import BlobId, BlobStore, ByteRange, NotFound

MANIFEST_ID = "0123456789abcdef0123456789abcdef"
BLOCK = 4096

COMPRESSOR = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)


@dataclass(frozen=True)
class Piece:
    """A chunk to be: where it lies on the disk, its bytes, its pack, and its stored form."""

    start: int
    plain: bytes
    pack: int = 0
    codec: Codec | None = None  # None: whatever is smaller
    compressor: zstandard.ZstdCompressor = COMPRESSOR
    written: bytes = b""  # by mistake, instead of the plain bytes

    def stored(self) -> tuple[Codec, bytes]:
        frame = self.compressor.compress(self.written or self.plain)
        codec = self.codec
        if codec is None:
            codec = Codec.ZSTD if len(frame) < len(self.plain) else Codec.RAW
        return codec, frame if codec is Codec.ZSTD else self.plain


@dataclass
class StoredDisk:
    """A disk and the blobs it became; ``placed`` has (pack, offset, stored length, codec) of each piece."""

    content: bytes
    pieces: Sequence[Piece]
    blobs: dict[BlobId, bytes] = field(default_factory=dict)
    placed: list[tuple[int, int, int, Codec]] = field(default_factory=list)
    checks: list[bytes] = field(default_factory=list)
    manifest_id: str = MANIFEST_ID

    @property
    def content_blob(self) -> BlobId:
        return content_blob(self.manifest_id)

    @property
    def locations_blob(self) -> BlobId:
        return locations_blob(self.manifest_id)

    def location_rows(self) -> np.ndarray:
        rows = [(*place, np.void(check), 0, 0) for place, check in zip(self.placed, self.checks, strict=True)]
        return np.array(rows, LOCATION_ENTRY)

    @property
    def digest(self) -> str:
        return tree_digest(self.content)

    def pack_id(self, number: int) -> str:
        return blake3(f"{self.manifest_id} {number}".encode()).hexdigest()[:32]

    def pack_blob(self, number: int) -> BlobId:
        return pack_blob(self.pack_id(number))

    async def put(self, store: BlobStore) -> None:
        for blob, content in self.blobs.items():
            await put(store, blob, content)


def tree_digest(content: bytes) -> str:
    hasher = TreeHasher()
    hasher.update(content)
    return hasher.digest()


async def put(store: BlobStore, blob: BlobId, content: bytes) -> None:
    """Write a blob, in the place of an older one if there is one."""
    await store.delete(blob)
    async with store.begin(blob) as ingest:
        await ingest.write([content])
        await ingest.commit()


async def get(store: BlobStore, blob: BlobId) -> bytes:
    size_bytes = (await store.stat(blob)).size_bytes
    return (await store.read(blob, [ByteRange(0, size_bytes)]))[0] if size_bytes else b""


async def exists(store: BlobStore, blob: BlobId) -> bool:
    try:
        await store.stat(blob)
    except NotFound:
        return False
    return True


def stored_disk(size_bytes: int, pieces: Sequence[Piece], *, digest: str = "") -> StoredDisk:
    """Lay out a disk of ``pieces`` with zeros between them; ``digest`` if not the true one."""
    content = bytearray(size_bytes)
    for piece in pieces:
        content[piece.start : piece.start + len(piece.plain)] = piece.plain
    disk = StoredDisk(bytes(content), pieces)
    packs = [bytearray() for _ in range(max((piece.pack for piece in pieces), default=-1) + 1)]
    for piece in pieces:
        codec, stored = piece.stored()
        disk.placed.append((piece.pack, len(packs[piece.pack]), len(stored), codec))
        disk.checks.append(blake3(stored).digest(16))
        packs[piece.pack] += stored
    for number, pack in enumerate(packs):
        disk.blobs[disk.pack_blob(number)] = bytes(pack)
    rows = [(p.start, len(p.plain), 0, np.void(blake3(p.plain).digest())) for p in pieces]
    listed = np.array(rows, CONTENT_ENTRY)
    places = disk.location_rows()
    root = parse_digest(digest or disk.digest)
    ids = b"".join(bytes.fromhex(disk.pack_id(number)) for number in range(len(packs)))
    disk.blobs[disk.content_blob] = part(CONTENT_MAGIC, listed, listed["start"], b"", size_bytes, root)
    starts = np.zeros(len(pieces), np.uint64)
    disk.blobs[disk.locations_blob] = part(LOCATIONS_MAGIC, places, starts, ids, size_bytes, root)
    return disk


def part(magic: bytes, rows: np.ndarray, starts: np.ndarray, ids: bytes, size: int, root: bytes) -> bytes:
    """The bytes of one part of a manifest."""
    body = rows.tobytes()
    table = np.array(
        [
            (starts[at], len(rows[at : at + PAGE_ENTRIES]), np.void(blake3(page.tobytes()).digest()))
            for at, page in pages(rows)
        ],
        PAGE_RECORD,
    ).tobytes()
    tables = ids + table
    count = -(-len(rows) // PAGE_ENTRIES)
    footer = (magic, len(rows), count, len(ids) // 16, len(body), size, root, blake3(tables).digest())
    return body + tables + FOOTER.pack(*footer)


def pages(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for at in range(0, len(rows), PAGE_ENTRIES):
        yield at, rows[at : at + PAGE_ENTRIES]


def text(seed: int, length: int) -> bytes:
    """Bytes that compress about three to one."""
    return random.Random(seed).randbytes(length // 4 + 1).hex().encode()[:length].ljust(length, b"x")


def small_disk() -> StoredDisk:
    """4 MiB and a bit: both codecs, three packs, gaps, chunks that cross 2 MiB and end the disk."""
    size = (4 << 20) + 3 * BLOCK
    return stored_disk(
        size,
        [
            Piece(0, text(1, 64 << 10), pack=0),
            Piece(64 << 10, random.Random(2).randbytes(32 << 10), pack=1),
            Piece(256 << 10, text(3, 128 << 10), pack=0),
            Piece((2 << 20) - (64 << 10), text(4, 128 << 10), pack=2),
            Piece(3 << 20, random.Random(5).randbytes(BLOCK), pack=2, codec=Codec.RAW),
            Piece(size - 5 * BLOCK, text(6, 5 * BLOCK), pack=1),
        ],
    )
