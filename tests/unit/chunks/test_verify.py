"""Verifying a stored image: all of its damage, and nothing else."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.layout import PAGE_ENTRIES
from imsd.chunks.verify import MAX_LISTED_DAMAGE, VerifyResult, verify
from imsd.contract import BlobStore, Unavailable
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import BLOCK, Piece, StoredDisk, put, small_disk, stored_disk, text


async def verified(store: BlobStore, disk: StoredDisk, pool: DecodePool) -> VerifyResult:
    async with open_chunk_reader(store, disk.manifest_id, pool, digests=True) as reader:
        return await verify(reader, pool)


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "disk",
    [
        small_disk(),
        stored_disk(0, []),
        stored_disk(100 << 20, []),
        stored_disk((100 << 20) + 512, [Piece(50 << 20, text(1, 3 * BLOCK))]),
        stored_disk(1 << 20, [Piece(5 * BLOCK, text(1, BLOCK)), Piece(9 << 16, text(2, BLOCK))]),
        stored_disk(9 << 20, [Piece(BLOCK + n * (96 << 10), text(n, 96 << 10), n % 3) for n in range(94)]),
    ],
    ids=["small", "empty", "zeros", "one chunk", "inside a leaf", "dense"],
)
async def test_an_intact_image_has_the_digest_of_its_disk(disk: StoredDisk, pool: DecodePool) -> None:
    store = MemoryStore()
    await disk.put(store)
    assert await verified(store, disk, pool) == VerifyResult(
        chunks_checked=len(disk.pieces),
        stored_bytes_checked=sum(stored for _, _, stored, _ in disk.placed),
        digest=disk.digest,
    )


async def test_progress_counts_the_plain_bytes_of_chunks(pool: DecodePool) -> None:
    disk, store = small_disk(), MemoryStore()
    await disk.put(store)
    told: list[int] = []
    async with open_chunk_reader(store, disk.manifest_id, pool, digests=True) as reader:
        await verify(reader, pool, told.append)
    assert told == sorted(told)
    assert told[-1] == sum(len(piece.plain) for piece in disk.pieces)


@pytest.mark.parametrize("number", range(6))
async def test_an_altered_chunk_is_found_and_the_others_are_still_checked(
    number: int, pool: DecodePool
) -> None:
    disk, store = small_disk(), MemoryStore()
    await disk.put(store)
    pack, offset, stored_length, _ = disk.placed[number]
    blob = disk.pack_blob(pack)
    await put(store, blob, flip(disk.blobs[blob], offset + stored_length // 2))
    result = await verified(store, disk, pool)
    assert result.digest == ""
    assert result.chunks_checked == len(disk.pieces)
    assert result.damage_count == 1
    (damage,) = result.damage
    piece = disk.pieces[number]
    assert (damage.guest_offset, damage.length, damage.blob_id) == (piece.start, len(piece.plain), blob)
    assert result.damaged_packs == {disk.pack_id(pack)}
    assert str(piece.start) in damage.message
    assert blob in damage.message


async def test_all_damage_is_reported_in_disk_order(pool: DecodePool) -> None:
    disk, store = small_disk(), MemoryStore()
    await disk.put(store)
    await store.delete(disk.pack_blob(0))
    await put(store, disk.pack_blob(2), disk.blobs[disk.pack_blob(2)][:-1])
    result = await verified(store, disk, pool)
    places = [(d.guest_offset, d.blob_id) for d in result.damage]
    assert places == [
        (0, disk.pack_blob(0)),
        (256 << 10, disk.pack_blob(0)),
        (3 << 20, disk.pack_blob(2)),
    ]
    assert result.damage_count == 3


async def test_the_list_of_damage_is_short_and_the_count_is_not(pool: DecodePool) -> None:
    disk = stored_disk(150 * BLOCK, [Piece(n * BLOCK, text(n, BLOCK)) for n in range(150)])
    store = MemoryStore()
    await disk.put(store)
    await store.delete(disk.pack_blob(0))
    result = await verified(store, disk, pool)
    assert result.damage_count == 150
    assert len(result.damage) == MAX_LISTED_DAMAGE
    assert result.chunks_checked == 150
    assert asdict(result)["damage"][0]["blob_id"] == disk.pack_blob(0)


@pytest.mark.parametrize("which", ["content", "locations"])
async def test_a_damaged_page_does_not_hide_the_others(which: str, pool: DecodePool) -> None:
    count = PAGE_ENTRIES + 10
    block = text(1, BLOCK)
    pieces = [Piece(n * BLOCK, n.to_bytes(8, "little") + block[8:]) for n in range(count)]
    disk, store = stored_disk(count * BLOCK, pieces), MemoryStore()
    await disk.put(store)
    assert (await verified(store, disk, pool)).digest == disk.digest
    blob, entry_bytes = (disk.content_blob, 48) if which == "content" else (disk.locations_blob, 16)
    await put(store, blob, flip(disk.blobs[blob], 5 * entry_bytes))
    result = await verified(store, disk, pool)
    (damage,) = result.damage
    assert (damage.guest_offset, damage.length, damage.blob_id) == (0, PAGE_ENTRIES * BLOCK, blob)
    assert result.chunks_checked == 10
    assert result.digest == ""


async def test_chunks_that_make_another_disk_are_found_by_the_tree_digest(pool: DecodePool) -> None:
    other = stored_disk(1 << 20, [Piece(0, b"other" * 1000)])
    disk, store = stored_disk(1 << 20, [Piece(0, text(1, BLOCK))], digest=other.digest), MemoryStore()
    await disk.put(store)
    result = await verified(store, disk, pool)
    (damage,) = result.damage
    assert (damage.guest_offset, damage.length) == (0, 1 << 20)
    assert damage.blob_id == disk.content_blob
    assert disk.digest in damage.message
    assert result.digest == ""


async def test_a_store_out_of_reach_is_no_damage(pool: DecodePool) -> None:
    disk = small_disk()
    store = FaultyStore(MemoryStore())
    await disk.put(store)
    store.add(Fault(call=Call.READ, kind=FaultKind.RAISE_BEFORE, prefix="packs/"))
    with pytest.raises(Unavailable):
        await verified(store, disk, pool)
