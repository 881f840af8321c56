"""Chunks as they are stored: frames that stand alone, or the plain bytes."""

from __future__ import annotations

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.codec import encode_chunk, encode_chunks
from imsd.chunks.index import Codec
from tests.unit.chunks.ingest_world import noise, text


@given(
    st.lists(
        st.binary(min_size=1, max_size=5000) | st.integers(1, 9).map(lambda n: b"\0" * 4096 * n), max_size=8
    )
)
def test_every_chunk_comes_back_and_none_grows(plain: list[bytes]) -> None:
    encoded = encode_chunks([memoryview(chunk) for chunk in plain])
    assert len(encoded) == len(plain)
    for chunk, (codec, stored) in zip(plain, encoded, strict=True):
        assert len(stored) <= len(chunk)
        assert (len(stored) == len(chunk)) == (codec is Codec.RAW)
        decoded = zstandard.decompress(bytes(stored)) if codec is Codec.ZSTD else bytes(stored)
        assert decoded == chunk


def test_a_frame_tells_its_size_and_has_a_checksum() -> None:
    codec, frame = encode_chunk(memoryview(text(1, 128 << 10)))
    parameters = zstandard.get_frame_parameters(bytes(frame))
    assert codec is Codec.ZSTD
    assert parameters.content_size == 128 << 10
    assert parameters.has_checksum
    assert parameters.dict_id == 0


def test_noise_is_not_copied() -> None:
    chunk = memoryview(bytearray(noise(1, 64 << 10)))
    codec, stored = encode_chunk(chunk)
    assert codec is Codec.RAW
    assert stored is chunk
