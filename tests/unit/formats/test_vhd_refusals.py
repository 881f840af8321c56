"""VHD files that are wrong: each is refused for its own reason, and nothing else ever comes out."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_vhd import (
    BLOCK,
    DIFFERENCING,
    FIXED,
    Block,
    Footer,
    Header,
    dynamic,
    fixed,
    resealed,
    sound_file,
)
from tests.unit.formats.disk_files import GIB, LIMIT, MIB, noise, read_all, read_range, text
from tests.unit.formats.refusal_checks import OUTCOMES, open_reason, outcome, read_reason

ONE = dynamic({0: Block(text(BLOCK))})
DATA = 1536 + 512 + 512  # headers, table, bitmap


def test_the_crafted_file_itself_is_right() -> None:
    assert read_all(open_image(MemorySource(ONE), "vhd", LIMIT).blocks) == text(BLOCK) + bytes(2 * BLOCK)


@pytest.mark.parametrize(
    ("reason", "footer"),
    [
        ("IMAGE_BACKING_FILE", Footer(kind=DIFFERENCING)),
        ("IMAGE_UNKNOWN_FEATURE", Footer(kind=0)),
        ("IMAGE_UNKNOWN_FEATURE", Footer(kind=5)),
        ("IMAGE_UNKNOWN_FEATURE", Footer(kind=0xFFFF_FFFF)),
        ("FORMAT_UNSUPPORTED", Footer(version=0x20000)),
        ("FORMAT_UNSUPPORTED", Footer(version=0)),
        ("IMAGE_MALFORMED", Footer(checksum=0)),
        ("IMAGE_EMPTY", Footer(size=0)),
        ("IMAGE_MALFORMED", Footer(size=3 * BLOCK - 1)),
        ("IMAGE_MALFORMED", Footer(size=3 * BLOCK + 512)),
        ("IMAGE_MALFORMED", Footer(size=(2040 << 30) + 512)),
        ("IMAGE_MALFORMED", Footer(size=(1 << 64) - 512)),
        ("IMAGE_MALFORMED", Footer(header_offset=0)),
        ("IMAGE_MALFORMED", Footer(header_offset=513)),
        ("IMAGE_MALFORMED", Footer(header_offset=1024)),
        ("IMAGE_TRUNCATED", Footer(header_offset=1 << 40)),
        ("IMAGE_MALFORMED", Footer(header_offset=(1 << 64) - 1)),
        ("IMAGE_TRUNCATED", Footer(header_offset=(1 << 64) - 512)),
    ],
)
def test_a_wrong_footer_is_refused(reason: str, footer: Footer) -> None:
    assert open_reason(dynamic({0: Block(text(BLOCK))}, footer), "vhd") == reason


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("IMAGE_MALFORMED", Header(cookie=b"cxsparsf")),
        ("IMAGE_MALFORMED", Header(checksum=77)),
        ("FORMAT_UNSUPPORTED", Header(version=0x20000)),
        ("IMAGE_BACKING_FILE", Header(parent_identity=b"\1" * 16)),
        ("IMAGE_BACKING_FILE", Header(parent_name="/etc/shadow")),
        ("IMAGE_BACKING_FILE", Header(locators=b"W2ku" + bytes(20))),
        ("IMAGE_BACKING_FILE", Header(locators=bytes(168) + b"MacX")),
        ("IMAGE_MALFORMED", Header(entries=2)),
        ("IMAGE_MALFORMED", Header(entries=0)),
        ("IMAGE_MALFORMED", Header(table_offset=0)),
        ("IMAGE_MALFORMED", Header(table_offset=1537)),
        ("IMAGE_TRUNCATED", Header(table_offset=1 << 40)),
        ("IMAGE_TRUNCATED", Header(table_offset=(1 << 64) - 512)),
    ],
)
def test_a_wrong_header_of_a_dynamic_disk_is_refused(reason: str, header: Header) -> None:
    assert open_reason(dynamic({0: Block(text(BLOCK))}, header=header), "vhd") == reason


def with_header(header: Header, size: int = 3 * BLOCK) -> bytes:
    """A dynamic file of the layout of ``ONE`` whatever its header says."""
    footer = Footer(size=size).pack()
    return footer + header.pack() + ONE[1536:-512] + footer


@pytest.mark.parametrize(
    "block_size", [0, 1, 511, 512, 256 << 10, BLOCK + 512, 3 * BLOCK, 512 << 20, 1 << 31]
)
def test_blocks_of_a_wrong_size_are_refused_cve_2014_0142(block_size: int) -> None:
    assert (
        open_reason(with_header(Header(block_size=block_size, entries=1 << 16)), "vhd") == "IMAGE_MALFORMED"
    )


@pytest.mark.parametrize("entries", [0xFFFF_FFFF, 0x4000_0000, 0x8000_0001])
def test_the_number_of_entries_may_be_anything_cve_2014_0144(entries: int) -> None:
    file, content = with_header(Header(entries=entries)), text(BLOCK)
    tracemalloc.start()
    try:
        assert read_range(open_image(MemorySource(file), "vhd", LIMIT).blocks, 0, BLOCK) == content
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_a_table_that_the_disk_needs_and_the_file_lacks_is_refused() -> None:
    file = with_header(Header(entries=1 << 22), size=2040 * GIB)
    assert open_reason(file, "vhd") == "IMAGE_TRUNCATED"


def test_a_disk_above_the_limit_is_refused() -> None:
    assert open_reason(ONE, "vhd", limit=3 * BLOCK - 512) == "IMAGE_TOO_LARGE"


def test_two_whole_footers_that_contradict_each_other_are_refused() -> None:
    assert open_reason(dynamic({}, copy=Footer(size=2 * BLOCK).pack()), "vhd") == "IMAGE_MALFORMED"
    assert open_reason(dynamic({}, copy=Footer(kind=DIFFERENCING).pack()), "vhd") == "IMAGE_MALFORMED"


def test_a_guest_cannot_make_its_fixed_disk_another_one() -> None:
    """What the guest writes to its first sector must not be taken for the footer's copy."""
    for inner in (ONE, dynamic({}, Footer(kind=DIFFERENCING), Header(parent_name="/etc/shadow"))):
        assert open_reason(fixed(inner), "vhd") == "IMAGE_MALFORMED"


def test_files_without_a_whole_footer_are_refused() -> None:
    assert open_reason(b"conectix", "vhd") == "IMAGE_TRUNCATED"
    assert open_reason(b"conectix".ljust(4096, b"\0"), "vhd") == "IMAGE_MALFORMED"
    assert (
        open_reason(noise(4096) + Footer(kind=FIXED, size=4096, checksum=1).pack(), "vhd")
        == "IMAGE_MALFORMED"
    )
    assert open_reason(Footer(kind=FIXED, size=4096).pack() + noise(4096), "vhd") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("reason", "size"),
    [("IMAGE_TRUNCATED", 8192), ("IMAGE_TRUNCATED", 4096 + 512), ("IMAGE_MALFORMED", 4096 - 512)],
)
@pytest.mark.parametrize("length", [512, 511])
def test_a_fixed_disk_must_have_the_length_of_its_file(length: int, reason: str, size: int) -> None:
    assert open_reason(fixed(bytes(4096), Footer(kind=FIXED, size=size, length=length)), "vhd") == reason


@pytest.mark.parametrize("length", [512, 1000, 1535, 1536, 1547])
def test_a_file_cut_in_its_headers_is_refused(length: int) -> None:
    assert open_reason(ONE[:length], "vhd") in {"IMAGE_TRUNCATED", "IMAGE_MALFORMED"}


@pytest.mark.parametrize("length", [1548, 2048, DATA - 1, DATA, DATA + 1, DATA + BLOCK - 1])
def test_a_file_cut_in_its_data_is_refused(length: int) -> None:
    assert read_reason(ONE[:length], "vhd") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("IMAGE_TRUNCATED", 0xFFFF_FFFE),
        ("IMAGE_TRUNCATED", 0x8000_0000),
        ("IMAGE_TRUNCATED", (len(ONE) - BLOCK) // 512),
        ("IMAGE_MALFORMED", 0),
        ("IMAGE_MALFORMED", 1),
        ("IMAGE_MALFORMED", 2),
        ("IMAGE_MALFORMED", 3),
    ],
)
def test_a_wrong_entry_is_refused_when_its_block_is_read(reason: str, entry: int) -> None:
    assert read_reason(dynamic({0: Block(text(BLOCK))}, entries={1: entry}), "vhd") == reason


def test_entries_may_share_a_block() -> None:
    file = dynamic({0: Block(text(BLOCK))}, entries={1: 4, 2: 4})
    assert read_all(open_image(MemorySource(file), "vhd", LIMIT).blocks) == text(BLOCK) * 3


@settings(max_examples=150)
@given(st.integers(0, 400), st.lists(st.tuples(st.integers(0, 2100), st.integers(0, 255)), max_size=6))
def test_a_file_with_any_bytes_changed_is_read_or_refused(seed: int, changes: list[tuple[int, int]]) -> None:
    file = bytearray(sound_file(random.Random(seed)))
    for place, value in changes:
        file[place % len(file)] = value
        if place < 512:  # in both footers: they must agree
            file[place - 512] = value
    assert outcome(bytes(file), "vhd") in OUTCOMES
    assert outcome(resealed(bytes(file)), "vhd") in OUTCOMES


@settings(max_examples=60)
@given(st.integers(0, 400), st.floats(0, 1))
def test_a_file_cut_anywhere_is_read_or_refused(seed: int, part: float) -> None:
    file = sound_file(random.Random(seed))
    assert outcome(file[: int(len(file) * part)], "vhd") in OUTCOMES | {"IMAGE_EMPTY"}
