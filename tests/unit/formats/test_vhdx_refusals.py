"""VHDX files that are wrong: each is refused for its own reason, and nothing else ever comes out."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.formats.detect import open_image
from imsd.formats.source import ByteSource, MemorySource
from tests.unit.formats.crafted_vhdx import (
    BAT,
    BAT_REGION,
    DATA,
    LOCATOR,
    LOG,
    LOG_ID,
    METADATA,
    METADATA_REGION,
    PARAMETERS,
    PARTIAL,
    PHYSICAL,
    REGIONS,
    SIZE,
    STRANGE,
    Disk,
    Header,
    Parts,
    Region,
    at,
    crafted,
    region_table,
    resealed,
    sound_file,
)
from tests.unit.formats.disk_files import LIMIT, MIB, noise, read_all, read_range, sparse_file, text
from tests.unit.formats.refusal_checks import OUTCOMES, open_reason, outcome, read_reason

ENTRIES = [at(4), 0, 0]
ONE = crafted(ENTRIES, text(MIB))


def with_disk(disk: Disk) -> bytes:
    return crafted(ENTRIES, text(MIB), Parts(disk=disk))


def test_the_crafted_file_itself_is_right() -> None:
    assert read_all(open_image(MemorySource(ONE), "vhdx", LIMIT).blocks) == text(MIB) + bytes(2 * MIB)


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("IMAGE_MALFORMED", Header(checksum=1)),
        ("IMAGE_MALFORMED", Header(signature=b"dead")),
        ("FORMAT_UNSUPPORTED", Header(version=0)),
        ("FORMAT_UNSUPPORTED", Header(version=2)),
        ("IMAGE_UNKNOWN_FEATURE", Header(log_version=1, log_id=LOG_ID)),
        ("IMAGE_MALFORMED", Header(log_offset=0)),
        ("IMAGE_MALFORMED", Header(log_offset=LOG + 4096)),
        ("IMAGE_MALFORMED", Header(log_length=0)),
        ("IMAGE_MALFORMED", Header(log_length=4096)),
        ("IMAGE_MALFORMED", Header(log_offset=METADATA)),
        ("IMAGE_MALFORMED", Header(log_length=3 * MIB)),
        ("IMAGE_TRUNCATED", Header(log_length=0xFFF0_0000)),
        ("IMAGE_TRUNCATED", Header(log_offset=(1 << 64) - MIB)),
    ],
)
def test_a_wrong_header_is_refused(reason: str, header: Header) -> None:
    parts = Parts(headers=(header.pack(), header.pack()))
    assert open_reason(crafted(ENTRIES, text(MIB), parts), "vhdx") == reason


def test_headers_of_one_age_that_contradict_each_other_are_refused() -> None:
    parts = Parts(headers=(Header().pack(), Header(log_offset=4 * MIB).pack()))
    assert open_reason(crafted(ENTRIES, text(MIB), parts), "vhdx") == "IMAGE_MALFORMED"


BAT_PLACE, METADATA_PLACE = REGIONS


@pytest.mark.parametrize(
    ("reason", "regions"),
    [
        ("IMAGE_MALFORMED", []),
        ("IMAGE_MALFORMED", [BAT_PLACE]),
        ("IMAGE_MALFORMED", [METADATA_PLACE]),
        ("IMAGE_MALFORMED", [BAT_PLACE, METADATA_PLACE, BAT_PLACE]),
        ("IMAGE_UNKNOWN_FEATURE", [*REGIONS, (STRANGE, 4 * MIB, MIB, 1)]),
        ("IMAGE_MALFORMED", [*REGIONS, (STRANGE, LOG, MIB, 0)]),
        ("IMAGE_MALFORMED", [*REGIONS, (STRANGE, BAT, MIB, 0)]),
        ("IMAGE_MALFORMED", [METADATA_PLACE, (BAT_REGION, METADATA, 2 * MIB, 1)]),
        ("IMAGE_MALFORMED", [METADATA_PLACE, (BAT_REGION, 0, MIB, 1)]),
        ("IMAGE_MALFORMED", [METADATA_PLACE, (BAT_REGION, BAT + 512, MIB, 1)]),
        ("IMAGE_MALFORMED", [METADATA_PLACE, (BAT_REGION, BAT, 0, 1)]),
        ("IMAGE_MALFORMED", [METADATA_PLACE, (BAT_REGION, BAT, 4096, 1)]),
        ("IMAGE_TRUNCATED", [METADATA_PLACE, (BAT_REGION, BAT, 0xFFF0_0000, 1)]),
        ("IMAGE_TRUNCATED", [METADATA_PLACE, (BAT_REGION, (1 << 64) - MIB, MIB, 1)]),
        ("IMAGE_TRUNCATED", [BAT_PLACE, (METADATA_REGION, 5 * MIB, MIB, 1)]),
    ],
)
def test_a_wrong_region_table_is_refused(reason: str, regions: list[Region]) -> None:
    table = region_table(regions)
    assert open_reason(crafted(ENTRIES, text(MIB), Parts(tables=(table, table))), "vhdx") == reason


@pytest.mark.parametrize(
    "tables",
    [
        (region_table(checksum=1), region_table(checksum=2)),
        (region_table(), region_table([*REGIONS, (STRANGE, 4 * MIB, MIB, 0)])),
        (region_table(count=2048), region_table(count=2048)),
        (region_table(count=0xFFFF_FFFF), region_table(count=0xFFFF_FFFF)),
    ],
)
def test_region_tables_without_one_that_is_valid_are_refused(tables: tuple[bytes, bytes]) -> None:
    assert open_reason(crafted(ENTRIES, text(MIB), Parts(tables=tables)), "vhdx") == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("reason", "disk"),
    [
        ("IMAGE_BACKING_FILE", Disk(flags=2)),
        ("IMAGE_BACKING_FILE", Disk(flags=3)),
        ("IMAGE_BACKING_FILE", Disk(more=[(LOCATOR, b"/etc/shadow", 4)])),
        ("IMAGE_BACKING_FILE", Disk(more=[(LOCATOR, b"", 0)])),
        ("IMAGE_UNKNOWN_FEATURE", Disk(flags=4)),
        ("IMAGE_UNKNOWN_FEATURE", Disk(flags=1 << 31)),
        ("IMAGE_UNKNOWN_FEATURE", Disk(more=[(STRANGE, b"x", 4)])),
        ("IMAGE_UNKNOWN_FEATURE", Disk(more=[(STRANGE, b"x", 5)])),
        ("IMAGE_MALFORMED", Disk(without=SIZE)),
        ("IMAGE_MALFORMED", Disk(without=PARAMETERS)),
        ("IMAGE_MALFORMED", Disk(more=[(SIZE, bytes(8), 6)])),
        ("IMAGE_MALFORMED", Disk(without=PHYSICAL, more=[(PHYSICAL, bytes(8), 6)])),
        ("IMAGE_MALFORMED", Disk(more=[(STRANGE, bytes(MIB - 64 * 1024), 0)])),
        ("IMAGE_MALFORMED", Disk(signature=b"metadate")),
        ("IMAGE_MALFORMED", Disk(count=2048)),
        ("IMAGE_MALFORMED", Disk(count=0xFFFF)),
        ("IMAGE_MALFORMED", Disk(place=4096)),
        ("IMAGE_MALFORMED", Disk(place=0xFFFF_FFF0)),
        ("IMAGE_MALFORMED", Disk(logical=0)),
        ("IMAGE_MALFORMED", Disk(logical=1024)),
        ("IMAGE_MALFORMED", Disk(physical=0)),
        ("IMAGE_EMPTY", Disk(size=0)),
        ("IMAGE_MALFORMED", Disk(size=MIB + 1)),
        ("IMAGE_MALFORMED", Disk(size=MIB + 512, logical=4096)),
        ("IMAGE_TOO_LARGE", Disk(size=(64 << 40) + 512)),
        ("IMAGE_TOO_LARGE", Disk(size=(1 << 64) - 512)),
        ("IMAGE_MALFORMED", Disk(size=1 << 40)),
    ],
)
def test_wrong_metadata_are_refused(reason: str, disk: Disk) -> None:
    assert open_reason(with_disk(disk), "vhdx") == reason


def test_no_configuration_makes_a_disk_larger_than_the_format() -> None:
    assert open_reason(with_disk(Disk(size=65 << 40)), "vhdx", limit=1 << 60) == "IMAGE_TOO_LARGE"
    assert open_reason(ONE, "vhdx", limit=3 * MIB - 512) == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("block_size", [0, 1, 512, 512 << 10, 3 << 20, MIB + 1, 512 << 20, 0xFFFF_FFFF])
def test_blocks_of_a_wrong_size_are_refused_cve_2014_0148(block_size: int) -> None:
    assert open_reason(with_disk(Disk(block_size=block_size)), "vhdx") == "IMAGE_MALFORMED"


@pytest.mark.parametrize("size", [1 << 52, (1 << 52) + (3 << 20), 32 << 50, 1 << 63])
def test_a_size_whose_number_of_entries_has_more_than_32_bits_is_refused_qemu_4033(size: int) -> None:
    """4033, 4390, 4470, 4487: the number of blocks, cut to 32 bits, fits a BAT that is far too short."""
    assert open_reason(with_disk(Disk(size=size)), "vhdx", limit=1 << 64) == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("size", [64 << 40, 200 << 30, (131_072 << 20) + 512])
def test_a_bat_too_short_for_the_disk_is_refused(size: int) -> None:
    """A region of 1 MiB has 131,072 entries, of which some are for sector bitmaps."""
    assert open_reason(with_disk(Disk(size=size)), "vhdx") == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("IMAGE_BACKING_FILE", at(4, PARTIAL)),
        ("IMAGE_MALFORMED", at(4, 4)),
        ("IMAGE_MALFORMED", at(4, 5)),
        ("IMAGE_MALFORMED", at(0)),
        ("IMAGE_MALFORMED", at(1)),
        ("IMAGE_MALFORMED", at(2)),
        ("IMAGE_MALFORMED", at(3)),
        ("IMAGE_TRUNCATED", at(5)),
        ("IMAGE_TRUNCATED", at((1 << 44) - 1)),
        ("IMAGE_TRUNCATED", at(1 << 43)),
    ],
)
def test_a_wrong_entry_is_refused_when_its_block_is_read(reason: str, entry: int) -> None:
    assert read_reason(crafted([at(4), entry, 0], text(MIB)), "vhdx") == reason


@pytest.mark.parametrize("length", [8, 512, 65_536, 70_000, MIB - 1, MIB, 2 * MIB, 3 * MIB, 4 * MIB - 1])
def test_a_file_cut_in_headers_or_regions_is_refused(length: int) -> None:
    assert open_reason(ONE[:length], "vhdx") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("length", [DATA, DATA + 1, DATA + MIB - 1])
def test_a_file_cut_in_its_data_is_refused(length: int) -> None:
    assert read_reason(ONE[:length], "vhdx") == "IMAGE_TRUNCATED"


def test_little_memory_is_used_whatever_the_file_claims(
    tmp_path: Path, source_of: Callable[[Path], ByteSource]
) -> None:
    table = region_table([METADATA_PLACE, (BAT_REGION, BAT, 513 * MIB, 1)])
    disk = Disk(size=64 << 40)
    file = crafted([at(600), 0, 0], b"", Parts(tables=(table, table), disk=disk))
    source = source_of(sparse_file(tmp_path / "disk.vhdx", 601 * MIB, [(0, file)]))
    content = bytes(MIB)
    tracemalloc.start()
    try:
        blocks = open_image(source, "vhdx", LIMIT).blocks
        assert read_range(blocks, 0, MIB) == content
        assert len(blocks.extents(0, 1 << 40)) == 2
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


PLACES = [64 << 10, 128 << 10, 192 << 10, 256 << 10, LOG, METADATA, METADATA + (64 << 10), BAT, DATA]


@settings(max_examples=100)
@given(
    st.integers(0, 400),
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6
    ),
)
def test_a_file_with_any_bytes_changed_is_read_or_refused(
    seed: int, changes: list[tuple[int, int, int]]
) -> None:
    file = bytearray(sound_file(random.Random(seed)))
    for place, inside, value in changes:
        file[(place + inside) % len(file)] = value
    assert outcome(bytes(file), "vhdx") in OUTCOMES
    assert outcome(resealed(bytes(file)), "vhdx") in OUTCOMES


@settings(max_examples=100)
@given(
    size=st.integers(0, 1 << 64).map(lambda size: size % (1 << 64)),
    block_size=st.sampled_from([0, 1 << 20, 1 << 24, 1 << 28, 77]),
    entries=st.lists(st.integers(0, (1 << 64) - 1), max_size=8),
    regions=st.lists(
        st.tuples(
            st.sampled_from([BAT_REGION, METADATA_REGION, STRANGE]),
            st.sampled_from([0, MIB, 2 * MIB, 3 * MIB, 5 * MIB, 1 << 63]),
            st.sampled_from([0, MIB, 2 * MIB, 0xFFF0_0000]),
            st.integers(0, 1),
        ),
        max_size=4,
    ),
)
def test_a_file_of_any_numbers_is_read_or_refused(
    size: int, block_size: int, entries: list[int], regions: list[Region]
) -> None:
    table = region_table([*REGIONS, *regions])
    parts = Parts(tables=(table, table), disk=Disk(size=size, block_size=block_size))
    assert outcome(crafted(entries, noise(4096), parts), "vhdx") in OUTCOMES
