"""What ZVHD and ZVHD2 records hold: a payload that is not just its block is refused, however it is read."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from itertools import pairwise

import pytest
import zstandard

from imsd.formats import zvhd_codec, zvhd_layout
from tests.unit.formats.crafted_zvhd import (
    BLOCK,
    COMPRESSOR,
    Fields,
    decoded,
    disk_of,
    frame,
    padded,
    pieces_of_stream,
    read,
    reasons,
    record,
    zvhd,
    zvhd2,
)
from tests.unit.formats.disk_files import noise, text

MALFORMED = "IMAGE_MALFORMED"


def payload_reasons(payload: bytes, compression: int = 1) -> set[str]:
    return reasons(zvhd2([(1, record(1, payload))], Fields(compression=compression)))


PLAIN = padded(text(70_000))
DICTIONARY = zstandard.train_dictionary(4096, [text(300, seed) for seed in range(900)])


def without_content_size(plain: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(plain) + packer.flush()


def with_large_window(plain: bytes) -> bytes:
    """A frame with a window of 16 MiB, by the letter of RFC 8878: stored blocks, content size in 8 bytes."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1100_0000, (24 - 10) << 3]) + len(plain).to_bytes(8, "little")
    blocks = b"".join(
        ((1 << 17) << 3 | (start + (1 << 17) >= len(plain))).to_bytes(3, "little")
        + plain[start : start + (1 << 17)]
        for start in range(0, len(plain), 1 << 17)
    )
    return head + blocks


ZSTD_PAYLOADS = {
    "too short": COMPRESSOR.compress(PLAIN[:-512]),
    "too long": COMPRESSOR.compress(PLAIN + bytes(512)),
    "two that are too long together": COMPRESSOR.compress(PLAIN) + COMPRESSOR.compress(bytes(512)),
    "claims gigabytes": b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + bytes(64),
    "no content size": without_content_size(PLAIN),
    "large window": with_large_window(PLAIN),
    "dictionary": zstandard.ZstdCompressor(dict_data=DICTIONARY, write_content_size=True).compress(PLAIN),
    "trailing bytes": frame(PLAIN) + b"\0",
    "trailing start of a frame": frame(PLAIN) + b"\x28\xb5\x2f\xfd",
    "trailing frame that may be skipped": frame(PLAIN) + struct.pack("<II", 0x184D2A50, 4) + b"skip",
    "trailing frame of nothing": frame(PLAIN) + COMPRESSOR.compress(b""),
    "cut": frame(PLAIN)[:-5],
    "cut before the checksum": frame(PLAIN)[:-4],
    "flipped checksum": frame(PLAIN)[:-1] + bytes([frame(PLAIN)[-1] ^ 1]),
    "flipped": frame(PLAIN)[:300] + bytes([frame(PLAIN)[300] ^ 0x10]) + frame(PLAIN)[301:],
    "too many blocks": b"\x28\xb5\x2f\xfd\xa0" + (BLOCK).to_bytes(4, "little") + bytes(3 << 20),
    "too many frames": COMPRESSOR.compress(b"a") * 5000,
    "not zstd": zlib.compress(PLAIN),
    "noise": noise(5000),
    "one byte": b"\x28",
}


@pytest.mark.parametrize("what", ZSTD_PAYLOADS)
def test_a_zstd_payload_that_is_not_just_a_block_is_refused(what: str) -> None:
    assert payload_reasons(ZSTD_PAYLOADS[what]) == {MALFORMED}


def test_a_block_may_be_several_zstd_frames() -> None:
    cuts = [0, 512, 70_144, 1 << 20, BLOCK]
    payload = b"".join(COMPRESSOR.compress(PLAIN[a:b]) for a, b in pairwise(cuts))
    file = zvhd2([(1, record(1, payload))])
    assert read("zvhd2", file)[BLOCK : 2 * BLOCK] == decoded("zvhd2", file)[0][BLOCK : 2 * BLOCK] == PLAIN


ZLIB_PAYLOADS = {
    "too short": zlib.compress(PLAIN[:-512]),
    "too long": zlib.compress(PLAIN + bytes(512)),
    "trailing bytes": zlib.compress(PLAIN) + b"\0",
    "cut": zlib.compress(PLAIN)[:300],
    "flipped checksum": zlib.compress(PLAIN)[:-1] + b"\x77",
    "not zlib": frame(PLAIN),
}


@pytest.mark.parametrize("what", ZLIB_PAYLOADS)
def test_a_zlib_payload_that_is_not_just_a_block_is_refused(what: str) -> None:
    assert payload_reasons(ZLIB_PAYLOADS[what], compression=0) == {MALFORMED}


def test_a_zlib_payload_may_be_left_unfinished() -> None:
    (payload,) = pieces_of_stream([PLAIN])
    file = zvhd2([(1, record(1, payload))], Fields(compression=0))
    assert read("zvhd2", file) == decoded("zvhd2", file)[0] == disk_of({1: PLAIN}, 4 * BLOCK)


def stream_of(*plains: bytes) -> list[bytes]:
    return pieces_of_stream(plains)


def finished(plain: bytes) -> bytes:
    return zlib.compress(padded(plain))


TEXTS = (text(70_000), text(80_000, 1))
FIRST, SECOND = stream_of(*TEXTS)
STREAMS = {
    "no header": [FIRST[2:]],
    "header of another method": [b"\x77\x01" + FIRST[2:]],
    "header with a wrong check": [b"\x78\x02" + FIRST[2:]],
    "header with a dictionary": [b"\x78\x20" + FIRST[2:]],
    "header twice": [FIRST, stream_of(TEXTS[1])[0]],
    "only a byte": [b"\x78"],
    "finished": [finished(TEXTS[0])],
    "finished without checksum": [finished(TEXTS[0])[:-4]],
    "trailing bytes": [FIRST + b"\0"],
    "a block of the stream too many": [FIRST + SECOND],
    "cut": [FIRST[:-40]],
    "cut within the flush": [FIRST[:-1]],
    "not flushed": [FIRST[:-5]],
    "noise": [b"\x78\x01" + noise(300)],
    "without what it looks back at": [stream_of(noise(70_000))[0], SECOND[:20] + SECOND[24:]],
}


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_that_is_not_cut_at_blocks_is_refused(what: str) -> None:
    file = zvhd([record(block, payload) for block, payload in enumerate(STREAMS[what])])
    assert reasons(file, "zvhd") == {MALFORMED}


@pytest.mark.parametrize("claim", [BLOCK + 1, 1 << 31, 1 << 62])
def test_what_a_frame_claims_is_not_allocated(claim: int) -> None:
    payload = b"\x28\xb5\x2f\xfd\xe0" + claim.to_bytes(8, "little") + bytes(64)
    tracemalloc.start()
    found = zvhd_codec.expand(zvhd_layout.Compression.ZSTD, memoryview(payload))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is None
    assert peak < 1 << 20


def test_a_frame_that_gives_more_than_it_claims_is_refused() -> None:
    # 16 blocks of one byte repeated 128 KiB make up the block it claims; it has 4096.
    claimed = b"\x28\xb5\x2f\xfd\xa0" + BLOCK.to_bytes(4, "little")
    repeated = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"a"
    assert payload_reasons(claimed + repeated * 4095 + bytes([repeated[0] | 1]) + repeated[1:]) == {MALFORMED}
