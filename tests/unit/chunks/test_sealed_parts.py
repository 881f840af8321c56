"""Parts of an encrypted upload: any range can be read, and nothing but what was sealed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.chunks.cipher import SEAL_BYTES, ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.sealed_parts import PIECE_BYTES, SealedParts, sealed_length
from imsd.chunks.staged_source import StagedPart, StagedSource, staging_blob
from imsd.contract import ByteRange, DataLoss
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.ingest_world import noise
from tests.unit.chunks.stored_disk import put

UPLOAD = "upload-1"
CIPHER = ChunkCipher(noise(1, 32), "image-1")
PARTS = SealedParts(CIPHER, UPLOAD)


def sealed(content: bytes, number: int = 0, parts: SealedParts = PARTS, step: int = 100_000) -> bytes:
    sealer = parts.sealer(number)
    pieces = [bytes(sealer.update(content[at : at + step])) for at in range(0, len(content), step)]
    return b"".join(pieces) + bytes(sealer.finish())


def opened(
    stored: bytes, length: int, wanted: ByteRange, number: int = 0, parts: SealedParts = PARTS
) -> bytes:
    place = parts.stored_range(length, wanted)
    return parts.opened(number, length, wanted, stored[place.offset : place.end])


LENGTHS = st.sampled_from(
    [
        1,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        2 * PIECE_BYTES,
        2 * PIECE_BYTES + 777,
        5 * PIECE_BYTES,
    ]
)


@settings(max_examples=60)
@given(LENGTHS, st.sampled_from([999, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 200_000]), st.data())
def test_any_range_of_a_sealed_part_is_read(length: int, step: int, data: st.DataObject) -> None:
    content = noise(length, length)
    stored = sealed(content, step=step)
    assert len(stored) == sealed_length(length)
    offset = data.draw(st.integers(0, length - 1))
    wanted = ByteRange(offset, data.draw(st.integers(1, length - offset)))
    assert opened(stored, length, wanted) == content[wanted.offset : wanted.end]


def test_no_bit_of_a_sealed_part_can_be_changed() -> None:
    content = noise(1, PIECE_BYTES + 10)
    stored = sealed(content)
    whole = ByteRange(0, len(content))
    ends = (*range(14), *range(PIECE_BYTES + 12, len(stored)))
    for bit in (8 * byte + byte % 8 for byte in ends):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataLoss, match="part 0 of the upload was altered"):
            opened(bytes(changed), len(content), whole)


def test_pieces_cannot_be_swapped_left_out_or_taken_from_elsewhere() -> None:
    length = 3 * PIECE_BYTES
    content = noise(2, length)
    stored = sealed(content)
    step = PIECE_BYTES + SEAL_BYTES
    pieces = [stored[at : at + step] for at in range(0, len(stored), step)]
    other_parts = SealedParts(CIPHER, "upload-2")
    other_image = SealedParts(ChunkCipher(noise(1, 32), "image-2"), UPLOAD)
    wrong = [
        (pieces[1] + pieces[0] + pieces[2], length),
        (pieces[0] + pieces[1] + pieces[1], length),
        (pieces[0] + pieces[1], length - PIECE_BYTES),  # cut, and the row in the database with it
        (sealed(content, number=1), length),
        (sealed(content, parts=other_parts), length),
        (sealed(content, parts=other_image), length),
    ]
    assert opened(stored, length, ByteRange(0, length)) == content
    for other, other_length in wrong:
        with pytest.raises(DataLoss, match="altered"):
            opened(other, other_length, ByteRange(0, other_length))


def test_what_is_stored_of_a_part_is_never_the_same() -> None:
    content = bytes(3 * PIECE_BYTES)
    first, second = sealed(content), sealed(content)
    assert first != second
    assert bytes(64) not in first


async def test_a_file_of_sealed_parts_is_read_at_any_place(pool: DecodePool) -> None:
    store = MemoryStore()
    lengths = [100_000, PIECE_BYTES, 2 << 20, 1, 300_000]
    zeros = {2}
    parts, content = [], b""
    for number, length in enumerate(lengths):
        parts.append(StagedPart(number, len(content), length, number in zeros))
        piece = bytes(length) if number in zeros else noise(number, length)
        content += piece
        if number not in zeros:
            await put(store, staging_blob(UPLOAD, number), sealed(piece, number))
    source = StagedSource(store, UPLOAD, parts, PARTS)
    for offset, length in [
        (0, len(content)),
        (99_990, 20),
        (100_000, 1),
        (165_500, 70_000),
        (5, PIECE_BYTES),
    ]:
        assert await pool.run(source.read, offset, length) == content[offset : offset + length]
    assert source.bytes_at_hand == 0


async def test_a_sealed_part_is_named_when_it_was_changed(pool: DecodePool) -> None:
    store = MemoryStore()
    stored = bytearray(sealed(noise(1, 200_000)))
    stored[-1] ^= 1
    await put(store, staging_blob(UPLOAD, 0), bytes(stored))
    source = StagedSource(store, UPLOAD, [StagedPart(0, 0, 200_000, False)], PARTS)
    assert await pool.run(source.read, 0, 100) == noise(1, 200_000)[:100]
    with pytest.raises(DataLoss, match=r"part 0 of the upload was altered .* at its byte 196608"):
        await pool.run(source.read, 199_000, 10)
