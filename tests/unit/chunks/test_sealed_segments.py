"""Segments of an encrypted upload: what a manifest is made of is proved before it is."""

from __future__ import annotations

import pytest

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.segment import SegmentSink, decode_segment, encode_segment
from imsd.contract import DataLoss
from tests.unit.chunks.ingest_world import KIB, MIB, SparseDisk, World, noise, text

CIPHER = ChunkCipher(noise(1, 32), "image-1")


async def entries_of(pool: DecodePool, cipher: ChunkCipher | None) -> list[ChunkEntry]:
    world = World(pool, cipher=cipher)
    sink = SegmentSink()
    disk = SparseDisk(2 * MIB, {0: text(1, 300 * KIB), MIB: noise(2, 100 * KIB)})
    async with DiskIngest(pool, world.target, sink) as ingest:
        await ingest.copy_from(disk)
        await ingest.finish(disk.size_bytes)
    return sink.take()


async def test_a_segment_comes_back_by_its_name(pool: DecodePool) -> None:
    entries = await entries_of(pool, CIPHER)
    rows = decode_segment(encode_segment(entries, CIPHER, "staging/u/1"), CIPHER, "staging/u/1")
    assert [row["digest"].tobytes() for row in rows.content] == [entry.digest for entry in entries]


async def test_no_bit_of_a_segment_can_be_changed_nor_its_name(pool: DecodePool) -> None:
    segment = encode_segment((await entries_of(pool, CIPHER))[:2], CIPHER, "staging/u/1")
    wrong = [segment[:-1], segment + b"\0", b""]
    for byte in range(len(segment)):
        changed = bytearray(segment)
        changed[byte] ^= 1 << byte % 8
        wrong.append(bytes(changed))
    for other in wrong:
        with pytest.raises(DataLoss, match="its digest does not match"):
            decode_segment(other, CIPHER, "staging/u/1")
    others = [(CIPHER, "staging/u/2"), (ChunkCipher(noise(1, 32), "image-2"), "staging/u/1"), (None, "")]
    for cipher, name in others:
        with pytest.raises(DataLoss, match="its digest does not match"):
            decode_segment(segment, cipher, name)


async def test_plain_chunks_are_in_no_segment_of_an_encrypted_image(pool: DecodePool) -> None:
    plain = encode_segment(await entries_of(pool, None), CIPHER, "1")
    with pytest.raises(DataLoss, match="one of its chunks cannot be"):
        decode_segment(plain, CIPHER, "1")
    sealed = encode_segment(await entries_of(pool, CIPHER))
    with pytest.raises(DataLoss, match="one of its chunks cannot be"):
        decode_segment(sealed)
