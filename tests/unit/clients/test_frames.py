"""Frames as a hostile or broken daemon may send them: decoded whole, or refused, in bounded memory."""

from __future__ import annotations

import random

import pytest
import zstandard
from ims_client.errors import CallFailed
from ims_client.frames import MAX_DECODED_BYTES, decode

COMPRESSOR = zstandard.ZstdCompressor(1, write_checksum=True)
PLAIN = [random.Random(n).randbytes(20_000).hex().encode() for n in range(3)]
FRAMES = b"".join(map(COMPRESSOR.compress, PLAIN))
LENGTH = sum(map(len, PLAIN))


def test_frames_in_a_row_become_what_they_hold() -> None:
    assert decode(memoryview(FRAMES), LENGTH) == b"".join(PLAIN)
    assert decode(memoryview(COMPRESSOR.compress(PLAIN[1])), len(PLAIN[1])) == PLAIN[1]


@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1, 1, len(PLAIN[0])])
def test_another_length_than_announced_is_lost_data(length: int) -> None:
    with pytest.raises(CallFailed) as caught:
        decode(memoryview(FRAMES), length)
    assert caught.value.reason == "DATA_LOSS"


@pytest.mark.parametrize("length", [MAX_DECODED_BYTES + 1, 1 << 40])
def test_no_memory_is_taken_for_a_claim(length: int) -> None:
    with pytest.raises(CallFailed, match="claims"):
        decode(memoryview(FRAMES), length)


def test_a_frame_that_decodes_to_gigabytes_is_refused() -> None:
    bomb = COMPRESSOR.compress(bytes(1 << 28))
    with pytest.raises(CallFailed):
        decode(memoryview(bomb), 1 << 20)


def test_a_window_of_gigabytes_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, strategy=1)
    huge = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = huge.compress(PLAIN[0]) + huge.flush()
    with pytest.raises(CallFailed):
        decode(memoryview(frame), len(PLAIN[0]))


def test_any_damage_is_lost_data_or_goes_unnoticed_by_nobody() -> None:
    """Each frame has a checksum: one altered byte never becomes other bytes."""
    chance = random.Random(1)
    for _ in range(300):
        bad = bytearray(FRAMES)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        assert outcome_of(bytes(bad)) in (b"".join(PLAIN), "DATA_LOSS")
    whole = len(FRAMES)
    for cut in [*range(0, whole, 997), *range(whole - 16, whole)]:  # the last four bytes are a checksum
        with pytest.raises(CallFailed):
            decode(memoryview(FRAMES)[:cut], LENGTH)


def outcome_of(frames: bytes) -> bytes | str:
    try:
        return bytes(decode(memoryview(frames), LENGTH))
    except CallFailed as error:
        return error.reason
