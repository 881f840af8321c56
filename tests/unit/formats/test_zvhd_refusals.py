"""ZVHD and ZVHD2 files that are wrong: each is refused for its own reason, whichever way it is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from imsd.formats import zvhd2_decoder, zvhd_layout
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_zvhd import (
    BLOCK,
    PAGE,
    ZVHD_HEADER,
    Changes,
    Fields,
    Parts,
    decoded,
    disk_of,
    frame,
    pieces_of_stream,
    read,
    reasons,
    record,
    refusal,
    zvhd,
    zvhd2,
    zvhd2_of,
    zvhd_of,
)
from tests.unit.formats.disk_files import LIMIT, noise, text

BLOCKS = {1: text(70_000), 3: noise(5000)}
ONE = [(1, record(1, frame(text(70_000))))]
DISK = disk_of(BLOCKS, 4 * BLOCK)

MALFORMED, TRUNCATED = "IMAGE_MALFORMED", "IMAGE_TRUNCATED"


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
