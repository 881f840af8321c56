"""LZO1X: every instruction by the letter, and streams that lie."""

from __future__ import annotations

import random

import pytest

from imsd.guest.lzo import decompress
from imsd.guest.volume import GuestUnreadable
from tests.unit.guest.btrfs_disks import lzo_stream, text

END = b"\x11\0\0"
LONG = bytes(range(200)) * 100


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (END, b""),
        (b"\x15abcd" + END, b"abcd"),
        (b"\x01abcd" + END, b"abcd"),
        (b"\x00\x02" + b"a" * 20 + END, b"a" * 20),
        (b"\x00\x00\x01" + b"a" * 274 + END, b"a" * 274),
        # 001LLLLL: length 3, distance 4, one literal behind it
        (b"\x15abcd\x21\x0d\x00X" + END, b"abcdabcX"),
        # the same, overlapping: length 33 + 5, distance 1
        (b"\x15abcd\x20\x05\x00\x00" + END, b"abcd" + b"d" * 38),
        # 01LDDDSS and 1LLDDDSS: lengths 4 and 8
        (b"\x15abcd\x6c\x00" + END, b"abcdabcd"),
        (b"\x15abcd\xec\x00" + END, b"abcdabcdabcd"),
        # two literals and, behind them, a match of two bytes
        (b"\x15abcd\x6e\x00XY\x04\x00" + END, b"abcdabcdXYXY"),
    ],
)
def test_every_instruction(stream: bytes, expected: bytes) -> None:
    assert decompress(stream, 4096) == expected


@pytest.mark.parametrize("distance", [16_385, 17_000, 20_000])
def test_far_matches(distance: int) -> None:
    start = bytes(random.Random(distance).randbytes(20_000))
    zeros, rest = divmod(len(start) - 19, 255)
    low = (distance - 16_384) << 2
    stream = b"\0" * (zeros + 1) + bytes([rest + 1]) + start + b"\x13" + low.to_bytes(2, "little") + END
    assert decompress(stream, 30_000) == start + start[-distance:][:5]


def test_a_match_after_a_run_of_literals_is_of_three_bytes() -> None:
    start = LONG[:2100]
    zeros, rest = divmod(len(start) - 19, 255)
    stream = b"\0" * (zeros + 1) + bytes([rest + 1]) + start + b"\x04\x02" + END
    assert decompress(stream, 4096) == start + start[-(2049 + 9) :][:3]


@pytest.mark.parametrize(
    "content", [b"a", text(4096), bytes(4096), LONG[:4000], random.Random(9).randbytes(4096)]
)
def test_what_was_compressed_comes_back(content: bytes) -> None:
    assert decompress(lzo_stream(content), 4096) == content


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\x15abcd",
        b"\x15abc",
        b"\x15abcd\x21\x11\x00" + END,  # distance 5 of 4
        b"\x15abcd\x20" + b"\0" * 100 + b"\x01\0\0" + END,  # more than was asked for
        b"\x00" * 5000,
        b"\x15abcd\x20",
        b"\x6c\x00" + END,  # a match of nothing
    ],
)
def test_streams_that_lie_are_refused(stream: bytes) -> None:
    with pytest.raises(GuestUnreadable):
        decompress(stream, 4096)


def test_damaged_streams_are_only_ever_unreadable() -> None:
    whole = lzo_stream(text(4096))
    refused = 0
    for seed in range(500):
        chosen = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        try:
            assert len(decompress(bytes(damaged), 4096)) <= 4096
        except GuestUnreadable:
            refused += 1
    assert refused > 100
