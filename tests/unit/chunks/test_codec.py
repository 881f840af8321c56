"""Chunks as they are stored: frames that stand alone, or the plain bytes."""

from __future__ import annotations

import zstandard
from blake3 import blake3
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
    digests = [blake3(chunk).digest() for chunk in plain]
    encoded = encode_chunks([(key, memoryview(chunk)) for key, chunk in zip(digests, plain, strict=True)])
    assert [each.digest for each in encoded] == digests
    for chunk, (_, length, codec, stored, check) in zip(plain, encoded, strict=True):
        assert length == len(chunk)
        assert check == blake3(stored).digest()[:16]
        assert len(stored) <= len(chunk)
        assert (len(stored) == len(chunk)) == (codec is Codec.RAW)
        decoded = zstandard.decompress(bytes(stored)) if codec is Codec.ZSTD else bytes(stored)
        assert decoded == chunk


def test_a_frame_tells_its_size_and_has_a_checksum() -> None:
    encoded = encode_chunk(bytes(32), memoryview(text(1, 128 << 10)))
    parameters = zstandard.get_frame_parameters(bytes(encoded.stored))
    assert encoded.codec is Codec.ZSTD
    assert parameters.content_size == 128 << 10
    assert parameters.has_checksum
    assert parameters.dict_id == 0


def test_noise_is_not_copied() -> None:
    chunk = memoryview(bytearray(noise(1, 64 << 10)))
    encoded = encode_chunk(bytes(32), chunk)
    assert encoded.codec is Codec.RAW
    assert encoded.stored is chunk
