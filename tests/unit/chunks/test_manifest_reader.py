"""Manifests: read, and refused when a single byte is not what it was."""

from __future__ import annotations

import random

import numpy as np
import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.layout import CONTENT_ENTRY, FOOTER, PAGE_ENTRIES, PAGE_RECORD
from imsd.chunks.manifest_reader import PAGES_KEPT, StoredChunk, open_manifest
from imsd.chunks.tree_digest import parse_digest
from imsd.contract import BlobId, DataLoss
from imsd.formats.source import NeedBytes
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import (
    BLOCK,
    MANIFEST_ID,
    Piece,
    StoredDisk,
    part,
    put,
    small_disk,
    stored_disk,
)


async def chunks_of(store: MemoryStore, pool: DecodePool, disk: StoredDisk) -> list[StoredChunk]:
    reader = await open_manifest(store, disk.manifest_id, pool)
    return await pool.run(reader.chunks, 0, reader.size_bytes)


def many_pages() -> StoredDisk:
    """A chunk in every second block, on three pages."""
    count = 2 * PAGE_ENTRIES + 100
    block = random.Random(3).randbytes(BLOCK)
    pieces = [Piece((2 * n + 1) * BLOCK, n.to_bytes(8, "little") + block[8:]) for n in range(count)]
    return stored_disk((2 * count + 5) * BLOCK, pieces)


async def test_a_manifest_is_read_as_it_was_written(pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    reader = await open_manifest(store, MANIFEST_ID, pool)
    assert reader.size_bytes == len(disk.content)
    assert reader.chunk_count == len(disk.pieces)
    assert list(reader.pack_ids) == [disk.pack_id(number) for number in range(3)]
    chunks = await pool.run(reader.chunks, 0, reader.size_bytes)
    assert [(c.start, c.length) for c in chunks] == [(p.start, len(p.plain)) for p in disk.pieces]
    assert [(c.pack, c.offset, c.stored_length, c.codec) for c in chunks] == disk.placed


async def test_a_look_up_returns_what_touches_the_range(pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    reader = await open_manifest(store, MANIFEST_ID, pool)
    chance = random.Random(11)
    edges = [0, 1, 65_535, 65_536, 98_304, 262_144, 393_216, 2 << 20, len(disk.content)]
    for _ in range(300):
        start = chance.choice([*edges, chance.randrange(len(disk.content))])
        start = min(start, len(disk.content) - 1)
        length = chance.choice([1, 512, chance.randrange(1, len(disk.content) - start + 1)])
        length = min(length, len(disk.content) - start)
        found = await pool.run(reader.chunks, start, length)
        touching = [p for p in disk.pieces if p.start < start + length and p.start + len(p.plain) > start]
        assert [c.start for c in found] == [p.start for p in touching], (start, length)


async def test_a_disk_of_zeros_has_a_manifest_without_pages(pool: DecodePool) -> None:
    store, disk = MemoryStore(), stored_disk(1 << 20, [])
    await disk.put(store)
    reader = await open_manifest(store, MANIFEST_ID, pool)
    assert (reader.page_count, reader.chunk_count, reader.size_bytes) == (0, 0, 1 << 20)
    assert reader.chunks(0, 1 << 20) == []


async def test_pages_are_loaded_when_a_look_up_needs_them(pool: DecodePool) -> None:
    store, disk = MemoryStore(), many_pages()
    await disk.put(store)
    reader = await open_manifest(store, MANIFEST_ID, pool)
    assert reader.page_count == 3
    page_bytes = 2 * PAGE_ENTRIES * BLOCK
    with pytest.raises(NeedBytes):
        reader.chunks(0, 10 * BLOCK)
    assert [c.start for c in await pool.run(reader.chunks, 0, 4 * BLOCK)] == [BLOCK, 3 * BLOCK]
    assert [c.start for c in reader.chunks(8 * BLOCK, 2 * BLOCK)] == [9 * BLOCK]  # at hand now
    with pytest.raises(NeedBytes):
        reader.chunks(page_bytes + BLOCK, 1)
    around = await pool.run(reader.chunks, page_bytes - BLOCK, 3 * BLOCK)
    assert [c.start for c in around] == [page_bytes - BLOCK, page_bytes + BLOCK]
    everything = await pool.run(reader.chunks, 0, reader.size_bytes)
    assert [c.start for c in everything] == [piece.start for piece in disk.pieces]
    assert [reader.guest_range(n).offset for n in range(3)] == [
        disk.pieces[n * PAGE_ENTRIES].start for n in range(3)
    ]
    assert reader.guest_range(2).end == reader.size_bytes


async def test_only_a_few_pages_stay_decoded(pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd.chunks.manifest_reader.PAGES_KEPT", 2)
    store, disk = MemoryStore(), many_pages()
    await disk.put(store)
    reader = await open_manifest(store, MANIFEST_ID, pool)
    await pool.run(reader.chunks, 0, reader.size_bytes)
    assert reader.chunks(2 * BLOCK * (2 * PAGE_ENTRIES + 1), BLOCK) == []  # the last page stayed
    with pytest.raises(NeedBytes):
        reader.chunks(BLOCK, BLOCK)
    assert PAGES_KEPT * 88 * PAGE_ENTRIES <= 4 << 20


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def regions(content: bytes, entry_bytes: int, entries: int, packs: int) -> dict[str, range]:
    tables = entries * entry_bytes
    footer = len(content) - FOOTER.size
    page_table = footer - PAGE_RECORD.itemsize
    assert page_table == tables + 16 * packs
    return {
        "page": range(0, tables),
        "pack table": range(tables, page_table),
        "page table": range(page_table, footer),
        "footer": range(footer, len(content)),
    }


@pytest.mark.parametrize("region", ["page", "pack table", "page table", "footer"])
@pytest.mark.parametrize("which", ["content", "locations"])
async def test_an_altered_byte_anywhere_is_lost_data(which: str, region: str, pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    blob = disk.content_blob if which == "content" else disk.locations_blob
    content = disk.blobs[blob]
    entry_bytes, packs = (48, 0) if which == "content" else (40, 3)
    places = regions(content, entry_bytes, len(disk.pieces), packs)[region]
    chance = random.Random(f"{which} {region}")
    sample = places if region == "footer" else sorted(chance.sample(places, min(12, len(places))))
    for at in sample:
        await put(store, blob, flipped(content, at))
        with pytest.raises(DataLoss) as caught:
            await chunks_of(store, pool, disk)
        assert blob in caught.value.message, (at, caught.value.message)
    if which == "content" and region == "pack table":
        assert not sample  # content lists no packs


@pytest.mark.parametrize("which", ["content", "locations"])
async def test_a_blob_cut_short_or_missing_is_lost_data(which: str, pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    blob = disk.content_blob if which == "content" else disk.locations_blob
    content = disk.blobs[blob]
    for length in (0, 1, FOOTER.size - 1, FOOTER.size, len(content) // 2, len(content) - 1):
        await put(store, blob, content[:length])
        with pytest.raises(DataLoss, match=blob):
            await chunks_of(store, pool, disk)
        await put(store, blob, content[length:] if length else content + b"\0")
        with pytest.raises(DataLoss, match=blob):
            await chunks_of(store, pool, disk)
    await store.delete(blob)
    with pytest.raises(DataLoss, match=blob):
        await chunks_of(store, pool, disk)


async def test_random_bytes_are_no_manifest(pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    chance = random.Random(5)
    for length in (120, 121, 5_000):
        await put(store, disk.content_blob, chance.randbytes(length))
        with pytest.raises(DataLoss, match=disk.content_blob):
            await chunks_of(store, pool, disk)


async def test_parts_of_two_manifests_do_not_go_together(pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    other = stored_disk(len(disk.content), [Piece(BLOCK, b"other" * 1000)])
    await put(store, disk.locations_blob, other.blobs[other.locations_blob])
    with pytest.raises(DataLoss, match="does not belong"):
        await open_manifest(store, MANIFEST_ID, pool)


LIES: dict[str, dict[str, int]] = {
    "a pack that is not in the table": {"pack": 3},
    "a place beyond the longest pack": {"offset": 0xFFFF_FFFF},
    "a stored form longer than the chunk": {"stored_length": 600_000},
    "nothing stored": {"stored_length": 0},
    "an unknown codec": {"codec": 7},
    "a raw chunk of another length": {"codec": 0},
    "a first frame longer than the chunk": {"first_length": 600_000, "first_stored": 1},
    "a first frame that is all that is stored": {"first_length": 4096, "first_stored": 0xFFFF_FFFF},
    "a first frame of which half is told": {"first_length": 4096},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_page_with_its_digest_that_lists_nonsense_is_refused(lie: str, pool: DecodePool) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    rows = disk.location_rows()
    for name, value in LIES[lie].items():
        rows[name][0] = value
    await put(store, disk.locations_blob, resealed(disk, disk.locations_blob, rows))
    with pytest.raises(DataLoss, match=disk.locations_blob):
        await chunks_of(store, pool, disk)


def resealed(disk: StoredDisk, blob: BlobId, rows: np.ndarray) -> bytes:
    """The blob of ``disk`` with other ``rows`` of the same number, all digests true."""
    footer = FOOTER.unpack(disk.blobs[blob][-FOOTER.size :])
    starts = rows["start"] if "start" in (rows.dtype.names or ()) else np.zeros(len(rows), np.uint64)
    ids = b"".join(bytes.fromhex(disk.pack_id(n)) for n in range(footer[3]))
    return part(footer[0], rows, starts, ids, len(disk.content), parse_digest(disk.digest))


@pytest.mark.parametrize(
    ("row", "name", "value"),
    [
        (1, "start", 0),
        (1, "start", 10),
        (1, "start", 1 << 63),
        (1, "start", (1 << 64) - 1),
        (1, "length", 0),
        (1, "length", 1 << 20),
        (5, "length", 6 * BLOCK),
        (5, "start", 1 << 40),
    ],
)
async def test_chunks_that_overlap_or_lie_outside_are_refused(
    row: int, name: str, value: int, pool: DecodePool
) -> None:
    store, disk = MemoryStore(), small_disk()
    await disk.put(store)
    entries = np.frombuffer(disk.blobs[disk.content_blob], CONTENT_ENTRY, len(disk.pieces)).copy()
    entries[name][row] = value
    await put(store, disk.content_blob, resealed(disk, disk.content_blob, entries))
    with pytest.raises(DataLoss, match=disk.content_blob):
        await chunks_of(store, pool, disk)
