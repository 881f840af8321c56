"""ZVHD and ZVHD2 files that are wrong: each is refused for its own reason, whichever way it is read."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import zstandard

from imsd.formats import zvhd2_decoder, zvhd_codec, zvhd_layout
from imsd.formats.detect import open_image
from imsd.formats.registry import READERS
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_zvhd import (
    BLOCK,
    COMPRESSOR,
    PAGE,
    ZVHD_HEADER,
    Changes,
    Fields,
    Parts,
    decoded,
    disk_of,
    frame,
    padded,
    pieces_of_stream,
    record,
    refusal,
    zvhd,
    zvhd2,
    zvhd2_of,
    zvhd_of,
)
from tests.unit.formats.disk_files import LIMIT, noise, read_all, text

BLOCKS = {1: text(70_000), 3: noise(5000)}
ONE = [(1, record(1, frame(text(70_000))))]
DISK = disk_of(BLOCKS, 4 * BLOCK)

MALFORMED, TRUNCATED = "IMAGE_MALFORMED", "IMAGE_TRUNCATED"


def read(name: str, file: bytes, limit: int = LIMIT) -> bytes:
    """The disk, read at random."""
    return read_all(READERS[name].open(MemorySource(file), limit).blocks)


def reasons(file: bytes, name: str = "zvhd2", limit: int = LIMIT) -> set[str]:
    """Why reading at random and decoding front to back refuse a file: best for the same reason."""
    return {
        refusal(lambda: read(name, file, limit)),
        refusal(lambda: decoded(name, file, limit=limit)),
    }


def payload_reasons(payload: bytes, compression: int = 1) -> set[str]:
    return reasons(zvhd2([(1, record(1, payload))], Fields(compression=compression)))


def test_the_crafted_files_themselves_are_right() -> None:
    for file in (zvhd2_of(BLOCKS), zvhd2_of(BLOCKS, Fields(compression=0, covers_zero_blocks=1))):
        assert read("zvhd2", file) == decoded("zvhd2", file)[0] == DISK
    assert read("zvhd", zvhd_of(BLOCKS)) == decoded("zvhd", zvhd_of(BLOCKS))[0] == DISK


SHARED_HEADERS: list[tuple[str, dict[str, object]]] = [
    (MALFORMED, {"cookie": b"stream\0\1"}),
    (MALFORMED, {"checksum_error": 1}),
    ("FORMAT_UNSUPPORTED", {"file_version": 0x20000}),
    ("FORMAT_UNSUPPORTED", {"format_version": 7}),
    ("IMAGE_UNKNOWN_FEATURE", {"alignment": 1}),
    ("IMAGE_EMPTY", {"size": 0}),
    (MALFORMED, {"size": 4 * BLOCK - 100}),
    ("IMAGE_TOO_LARGE", {"size": LIMIT + 512}),
    ("IMAGE_TOO_LARGE", {"size": (1 << 64) - 512}),
]

ZVHD2_HEADERS: list[tuple[str, dict[str, object]]] = [
    ("FORMAT_UNSUPPORTED", {"block_bytes": 1 << 20}),
    ("FORMAT_UNSUPPORTED", {"block_bytes": 0}),
    (MALFORMED, {"blocks": 5}),
    (MALFORMED, {"blocks": 0}),
    (MALFORMED, {"covers_zero_blocks": 2}),
    ("IMAGE_UNKNOWN_FEATURE", {"compression": 2}),
    ("IMAGE_ENCRYPTED", {"compression": 0x81}),
    ("IMAGE_ENCRYPTED", {"extension": b"OIMSEXT1" + bytes(24) + struct.pack("<I", 2)}),
    ("IMAGE_UNKNOWN_FEATURE", {"extension": b"OIMSEXT1" + bytes(24) + struct.pack("<I", 1)}),
    ("IMAGE_UNKNOWN_FEATURE", {"extension": b"OIMSEXT1" + bytes(24) + struct.pack("<I", 1 << 31)}),
]


@pytest.mark.parametrize(("reason", "wrong"), SHARED_HEADERS + ZVHD2_HEADERS)
def test_a_zvhd2_with_a_wrong_header_is_refused_at_once(reason: str, wrong: dict[str, object]) -> None:
    fields = replace(Fields(), **wrong)  # type: ignore[arg-type]
    assert refusal(lambda: decoded("zvhd2", fields.page() + bytes(PAGE))) == reason
    sound = zvhd2(ONE)
    assert reasons(fields.page() + sound[PAGE:]) == {reason}


@pytest.mark.parametrize(("reason", "wrong"), SHARED_HEADERS[1:] + ZVHD2_HEADERS)
def test_a_zvhd2_with_a_wrong_footer_is_refused(reason: str, wrong: dict[str, object]) -> None:
    file = zvhd2(ONE, changes=Changes(footer=lambda f: replace(f, **wrong)))  # type: ignore[arg-type]
    assert reasons(file) == {reason}


@pytest.mark.parametrize(("reason", "wrong"), SHARED_HEADERS)
def test_a_zvhd_with_a_wrong_header_or_end_page_is_refused(reason: str, wrong: dict[str, object]) -> None:
    fields = replace(ZVHD_HEADER, **wrong)  # type: ignore[arg-type]
    assert refusal(lambda: decoded("zvhd", fields.page() + bytes(PAGE))) == reason
    records = zvhd_of(BLOCKS)[PAGE:-PAGE]
    assert reasons(fields.page() + records + ZVHD_HEADER.page(), "zvhd") == {reason}
    if "cookie" not in wrong:
        assert reasons(zvhd([records], last=fields), "zvhd") == {reason}


@pytest.mark.parametrize("wrong", [{"size": 3 * BLOCK}, {"compression": 0}, {"covers_zero_blocks": 1}])
def test_pages_that_describe_different_disks_are_refused(wrong: dict[str, int]) -> None:
    file = zvhd2(ONE, changes=Changes(footer=lambda f: replace(f, **wrong)))  # type: ignore[arg-type]
    assert reasons(file) == {MALFORMED}
    if "size" in wrong:
        last = replace(ZVHD_HEADER, size=wrong["size"])
        assert reasons(zvhd([zvhd_of(BLOCKS)[PAGE:-PAGE]], last=last), "zvhd") == {MALFORMED}


def test_a_limit_below_the_size_is_kept() -> None:
    assert reasons(zvhd2(ONE), limit=4 * BLOCK - 512) == {"IMAGE_TOO_LARGE"}
    assert reasons(zvhd_of(BLOCKS), "zvhd", limit=4 * BLOCK - 512) == {"IMAGE_TOO_LARGE"}


FOOTERS: list[Callable[[Fields], Fields]] = [
    lambda f: replace(f, stored_blocks=5),
    lambda f: replace(f, stored_blocks=2),
    lambda f: replace(f, stored_blocks=0, index_segments=0, index_bytes=0),
    lambda f: replace(f, index_segments=2),
    lambda f: replace(f, index_segments=2, index_bytes=2 * f.index_bytes),
    lambda f: replace(f, index_segment_bytes=f.index_segment_bytes * 2),
    lambda f: replace(f, bitmap_segment_bytes=8192),
    lambda f: replace(f, bitmap_segments=0),
    lambda f: replace(f, bitmap_segments=0xFFFF_FFFF),
    lambda f: replace(f, index_bytes=f.index_bytes - 16),
    lambda f: replace(f, bitmap_bytes=0),
    lambda f: replace(f, bitmap_bytes=0xFFFF_F000),
    lambda f: replace(f, index_position=f.index_position + 512),
    lambda f: replace(f, bitmap_position=f.bitmap_position + 16),
    lambda f: replace(f, index_position=0),
    lambda f: replace(f, index_position=PAGE),
    lambda f: replace(f, bitmap_position=PAGE),
    lambda f: replace(f, index_position=(1 << 64) - PAGE),
    lambda f: replace(f, bitmap_position=f.bitmap_position + PAGE),
    lambda f: replace(f, bitmap_position=1 << 63),
    lambda f: replace(f, bitmap_position=f.index_position),
    lambda f: replace(f, index_position=f.bitmap_position - PAGE),
]


@pytest.mark.parametrize("change", FOOTERS)
def test_tables_that_are_not_those_of_the_disk_or_not_in_the_file_are_refused(
    change: Callable[[Fields], Fields],
) -> None:
    assert reasons(zvhd2(ONE, changes=Changes(footer=change))) == {MALFORMED}


Entries = list[tuple[int, int, int]]
INDEXES: list[Callable[[Entries], Entries]] = [
    lambda entries: entries[::-1],
    lambda entries: [entries[0], entries[0]],
    lambda entries: [(offset, block + 1, length) for offset, block, length in entries],
    lambda entries: [(offset, 0xFFFF_FFFF, length) for offset, _, length in entries],
    lambda entries: [(offset + 512, block, length) for offset, block, length in entries],
    lambda entries: [(0, block, length) for _, block, length in entries],
    lambda entries: [(1 << 40, block, length) for _, block, length in entries],
    lambda entries: [((1 << 64) - PAGE, block, length) for _, block, length in entries],
    lambda entries: [(offset, block, length + PAGE) for offset, block, length in entries],
    lambda entries: [(offset, block, 0xFFFF_F000) for offset, block, _ in entries],
    lambda entries: [(offset, block, 0) for offset, block, _ in entries],
    lambda entries: [(offset, block, length - 1) for offset, block, length in entries],
    lambda entries: [(entries[1][0], 1, entries[1][2]), (entries[0][0], 3, entries[0][2])],
    lambda entries: [],
]


@pytest.mark.parametrize("covers_zero_blocks", [0, 1])
@pytest.mark.parametrize("change", INDEXES)
def test_an_index_that_is_not_that_of_the_records_is_refused(
    change: Callable[[Entries], Entries], covers_zero_blocks: int
) -> None:
    records = [(block, record(block, frame(plain))) for block, plain in BLOCKS.items()]
    fields = Fields(covers_zero_blocks=covers_zero_blocks)

    def only_stored(entries: Entries) -> Entries:
        stored = iter(change([entry for entry in entries if entry[2]]))
        return [next(stored, (0, 0, 0)) if entry[2] else entry for entry in entries]

    changes = Changes(entries=only_stored if covers_zero_blocks else change)
    assert reasons(zvhd2(records, fields, changes)) == {MALFORMED}


def test_an_index_with_an_entry_where_the_bitmap_has_no_block_is_refused() -> None:
    records = [(block, record(block, frame(plain))) for block, plain in BLOCKS.items()]
    changes = Changes(entries=lambda entries: [entries[0], entries[1], (PAGE, 2, PAGE), entries[3]])
    assert reasons(zvhd2(records, Fields(covers_zero_blocks=1), changes)) == {MALFORMED}


def test_what_stands_in_the_index_behind_its_entries_does_not_matter() -> None:
    for covers_zero_blocks in (0, 1):
        changes = Changes(entries=lambda entries: [*entries, (PAGE, 1, PAGE), (1, 2, 3)])
        file = zvhd2(ONE, Fields(covers_zero_blocks=covers_zero_blocks), changes)
        assert read("zvhd2", file) == decoded("zvhd2", file)[0]


def clear(bitmap: bytearray) -> None:
    bitmap[0] = 0


def other(bitmap: bytearray) -> None:
    bitmap[0] = 1 << 2


def beyond(bitmap: bytearray) -> None:
    bitmap[0] = 1 << 4


def far_beyond(bitmap: bytearray) -> None:
    bitmap[0], bitmap[-1] = 0, 1


@pytest.mark.parametrize("change", [clear, other, beyond, far_beyond])
def test_a_bitmap_that_is_not_that_of_the_records_is_refused(change: Callable[[bytearray], object]) -> None:
    assert reasons(zvhd2(ONE, changes=Changes(bitmap=change))) == {MALFORMED}


@pytest.mark.parametrize(
    "parts",
    [
        Parts(magic=b"hwstream bh\0"),
        Parts(claimed=0),
        Parts(claimed=10_000),
        Parts(claimed=(4 << 20) + 1),
        Parts(claimed=0xFFFF_FFFF),
        Parts(end=b"end\1"),
    ],
)
def test_a_record_with_a_wrong_start_or_end_is_refused(parts: Parts) -> None:
    assert reasons(zvhd2([(1, record(1, frame(text(70_000)), parts))])) == {MALFORMED}
    (payload,) = pieces_of_stream([text(70_000)])
    assert reasons(zvhd([record(1, payload, parts)]), "zvhd") == {MALFORMED}


def test_a_record_of_another_block_than_its_index_says_is_refused() -> None:
    assert reasons(zvhd2([(1, record(2, frame(text(70_000))))])) == {MALFORMED}


@pytest.mark.parametrize("numbers", [(1, 1), (3, 1), (1, 4), (1, 0xFFFF_FFFF)])
def test_blocks_that_do_not_ascend_or_are_not_of_the_disk_are_refused(numbers: tuple[int, int]) -> None:
    payloads = pieces_of_stream([text(5000), text(6000)])
    records = [record(block, payload) for block, payload in zip(numbers, payloads, strict=True)]
    assert reasons(zvhd(records), "zvhd") == {MALFORMED}
    assert refusal(lambda: decoded("zvhd2", Fields().page() + b"".join(records))) == MALFORMED


def test_a_zvhd2_whose_records_are_not_in_order_can_only_be_read_at_random() -> None:
    first, last = record(1, frame(BLOCKS[1])), record(3, frame(BLOCKS[3]))
    changes = Changes(entries=sorted_by_block)
    file = zvhd2([(3, last), (1, first)], changes=changes)
    assert read("zvhd2", file) == DISK
    assert refusal(lambda: decoded("zvhd2", file)) == MALFORMED


def sorted_by_block(entries: Entries) -> Entries:
    return sorted(entries, key=lambda entry: entry[1])


def test_a_zvhd2_without_its_end_page_is_refused() -> None:
    assert reasons(zvhd2(ONE, changes=Changes(end_page=bytes(PAGE)))) == {MALFORMED}


def test_an_end_page_with_a_wrong_checksum_is_taken() -> None:
    end_page = replace(Fields(), stored_blocks=1, checksum_error=77).page()
    file = zvhd2(ONE, changes=Changes(end_page=end_page))
    assert read("zvhd2", file) == decoded("zvhd2", file)[0]


def test_what_lies_between_bitmap_and_footer_is_passed_over() -> None:
    file = zvhd2(ONE, changes=Changes(extension=noise(3 * PAGE) + Fields().page()))
    assert read("zvhd2", file) == decoded("zvhd2", file)[0]


def test_more_than_an_extension_may_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zvhd2_decoder, "MAX_EXTENSION_BYTES", 2 * PAGE)
    assert decoded("zvhd2", zvhd2(ONE, changes=Changes(extension=bytes(2 * PAGE))))
    file = zvhd2(ONE, changes=Changes(extension=bytes(3 * PAGE)))
    assert refusal(lambda: decoded("zvhd2", file)) == MALFORMED


def test_a_bitmap_too_long_to_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zvhd_layout, "MAX_BITMAP_BYTES", 4095)
    assert reasons(zvhd2(ONE)) == {"IMAGE_TOO_LARGE"}


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


@pytest.mark.parametrize("cut", [1, 100, 4095, PAGE, PAGE + 1, PAGE + 48, 2 * PAGE, -2 * PAGE, -PAGE, -1])
def test_a_file_that_is_cut_is_refused_as_such(cut: int) -> None:
    assert reasons(zvhd_of(BLOCKS)[:cut], "zvhd") == {TRUNCATED}
    assert reasons(zvhd2_of(BLOCKS)[:cut]) == {TRUNCATED}


@pytest.mark.parametrize("checksum_error", [0, 5])
def test_a_zvhd2_that_is_cut_behind_its_end_page_is_refused_as_such(checksum_error: int) -> None:
    end_page = replace(Fields(), stored_blocks=1, checksum_error=checksum_error).page()
    file = zvhd2(ONE, changes=Changes(end_page=end_page))
    assert reasons(file[: file.index(end_page) + PAGE]) == {TRUNCATED}


@pytest.mark.parametrize("more", [b"\0", bytes(PAGE), noise(100_000)])
def test_bytes_behind_the_end_are_refused(more: bytes) -> None:
    file = zvhd_of(BLOCKS) + more
    assert refusal(lambda: decoded("zvhd", file)) == MALFORMED
    assert refusal(lambda: read("zvhd", file)) == TRUNCATED
    assert reasons(zvhd2_of(BLOCKS) + more) == {TRUNCATED}


def test_a_second_end_page_is_refused() -> None:
    file = zvhd_of(BLOCKS) + ZVHD_HEADER.page()
    assert reasons(file, "zvhd") == {MALFORMED}


def test_a_file_of_nothing_but_pages_is_the_disk_of_zeros() -> None:
    assert read("zvhd", zvhd([])) == decoded("zvhd", zvhd([]))[0] == bytes(4 * BLOCK)
    assert read("zvhd2", zvhd2([])) == decoded("zvhd2", zvhd2([]))[0] == bytes(4 * BLOCK)


@pytest.mark.parametrize("name", ["zvhd", "zvhd2"])
def test_bytes_beyond_the_disk_are_a_finding(name: str) -> None:
    size = BLOCK + 512
    blocks = {1: text(512) + bytes(100) + b"beyond"}
    expected = disk_of(blocks, size)
    if name == "zvhd":
        file = zvhd_of(blocks, replace(ZVHD_HEADER, size=size))
    else:
        file = zvhd2_of(blocks, Fields(size=size))
        opened = open_image(MemorySource(file), name, LIMIT)
        assert [finding.code for finding in opened.findings] == ["ZVHD_BYTES_BEYOND_DISK"]
    content, disk = decoded(name, file, resumes=True)
    assert [finding.code for finding in disk.findings] == ["ZVHD_BYTES_BEYOND_DISK"]
    assert content == read(name, file) == expected


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
