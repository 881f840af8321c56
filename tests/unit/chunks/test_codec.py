"""Chunks as they are stored: frames that stand alone, or the plain bytes."""

from __future__ import annotations

import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.codec import PlainChunk, border_in, encode_chunks
from imsd.chunks.index import Codec
from tests.unit.chunks.ingest_world import KIB, MIB, noise, text


def plain_chunk(content: bytes, border: int = 0) -> PlainChunk:
    return PlainChunk(blake3(content).digest(), memoryview(content), border)


def contents() -> st.SearchStrategy[bytes]:
    zeros = st.integers(1, 9).map(lambda n: b"\0" * 4096 * n)
    return st.binary(min_size=2, max_size=5000) | zeros


@given(st.lists(st.tuples(contents(), st.integers(0, 4095)), max_size=8))
def test_every_chunk_comes_back_and_none_grows(given_chunks: list[tuple[bytes, int]]) -> None:
    chunks = [plain_chunk(content, border % len(content)) for content, border in given_chunks]
    for chunk, made in zip(chunks, encode_chunks(chunks), strict=True):
        assert (made.digest, made.length) == (chunk.digest, len(chunk.content))
        assert made.check == blake3(made.stored).digest()[:16]
        stored = bytes(made.stored)
        if made.codec is Codec.RAW:
            assert stored == chunk.content
            assert (made.first_length, made.first_stored) == (0, 0)
            continue
        assert len(stored) < len(chunk.content)
        assert made.first_length == chunk.border
        assert bool(made.first_stored) == bool(chunk.border)
        frames = [stored[: made.first_stored], stored[made.first_stored :]]
        plain = [zstandard.decompress(frame) for frame in frames if frame]
        assert b"".join(plain) == chunk.content
        assert len(plain[0]) == (chunk.border or len(chunk.content))


def test_a_frame_tells_its_size_and_has_a_checksum() -> None:
    made = encode_chunks([plain_chunk(text(1, 128 * KIB), 40 * KIB)])[0]
    stored = bytes(made.stored)
    for frame, length in ((stored, 40 * KIB), (stored[made.first_stored :], 88 * KIB)):
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.content_size == length
        assert parameters.has_checksum
        assert parameters.dict_id == 0


def test_noise_is_not_copied() -> None:
    content = memoryview(bytearray(noise(1, 64 * KIB)))
    made = encode_chunks([PlainChunk(blake3(content).digest(), content, 4096)])[0]
    assert made.codec is Codec.RAW
    assert made.stored is content


def test_a_second_frame_begins_where_a_cluster_of_2_mib_ends() -> None:
    assert border_in(0, 512 * KIB) == 0
    assert border_in(2 * MIB - 4096, 4096) == 0
    assert border_in(2 * MIB - 4096, 8192) == 4096
    assert border_in(6 * MIB - 300 * KIB, 512 * KIB) == 300 * KIB
    assert border_in(2 * MIB, 512 * KIB) == 0
