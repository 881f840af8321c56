"""VHDX files read: those that QEMU writes, and those made by hand for what QEMU never writes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.formats.detect import open_image
from imsd.formats.reader import OpenedImage
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_vhdx import (
    BLOCK,
    LOGICAL,
    NONE,
    REGIONS,
    STRANGE,
    UNDEFINED,
    UNMAPPED,
    ZERO,
    Disk,
    Header,
    Parts,
    at,
    crafted,
    region_table,
    sound_file,
)
from tests.unit.formats.disk_files import (
    GIB,
    LIMIT,
    MIB,
    LateSource,
    mixed_pieces,
    noise,
    qemu_img,
    read_all,
    read_range,
    sparse_file,
    text,
    with_fetches,
)
from tests.unit.formats.qemu_files import Layout, as_qemu_reads, converted
from tests.unit.formats.refusal_checks import outcome

ImageOf = Callable[[Path], OpenedImage]


def opened(file: bytes) -> OpenedImage:
    return open_image(MemorySource(file), "vhdx", LIMIT)


OPTIONS = [
    "",
    "subformat=fixed",
    "subformat=fixed,block_size=1M",
    "block_size=1M",
    "block_size=2M,log_size=3M",
    "block_size=256M",
    "log_size=32M",
    "block_state_zero=off",
    "block_state_zero=off,block_size=1M,subformat=dynamic",
]


@pytest.mark.parametrize("size", [512, MIB, 9 * MIB - 512, 33 * MIB + 4096])
@pytest.mark.parametrize("options", OPTIONS)
def test_what_qemu_writes_is_read_as_qemu_reads_it(
    options: str, size: int, tmp_path: Path, image_of: ImageOf
) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = converted(raw, Layout("vhdx", options))
    image = image_of(path)
    assert image.format_name == "vhdx"
    assert image.variant.startswith("fixed" if "fixed" in options else "dynamic")
    assert not image.findings
    assert image.blocks.size_bytes == size
    assert read_all(image.blocks) == as_qemu_reads(path, "vhdx")


@pytest.mark.parametrize("options", ["", "block_size=256M", "block_size=32M"])
@pytest.mark.parametrize("size", [GIB, 100 * GIB + 512, 33 << 40, 64 << 40])
def test_large_disks_are_opened(size: int, options: str, tmp_path: Path, image_of: ImageOf) -> None:
    path = tmp_path / "disk.vhdx"
    qemu_img("create", "-q", "-f", "vhdx", *(["-o", options] if options else []), path, str(size))
    blocks = image_of(path).blocks
    assert blocks.size_bytes == size
    assert all(extent.is_zero for extent in blocks.extents(size - GIB, GIB))


def test_entries_of_sector_bitmaps_are_skipped(tmp_path: Path, image_of: ImageOf) -> None:
    """With blocks of 256 MiB, every seventeenth entry of the BAT is none of a block."""
    places = [0, 4 * GIB - 512, 4 * GIB, 8 * GIB, 17 * GIB + 77 * 512]
    raw = sparse_file(tmp_path / "disk.raw", 18 * GIB, [(place, noise(512, place)) for place in places])
    path = tmp_path / "disk.vhdx"
    qemu_img("convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=256M", raw, path)
    blocks = image_of(path).blocks
    assert [read_range(blocks, place, 512) for place in places] == [noise(512, place) for place in places]
    data = [e for e in blocks.extents(0, 18 * GIB) if not e.is_zero]
    assert [(e.start, e.length) for e in data] == [
        (0, GIB // 4),
        (15 * GIB // 4, GIB // 2),
        (8 * GIB, GIB // 4),
        (17 * GIB, GIB // 4),
    ]


@pytest.mark.parametrize("state", [NONE, UNDEFINED, ZERO, UNMAPPED])
@pytest.mark.parametrize("mib", [0, 4, (1 << 44) - 1])
def test_blocks_that_are_not_there_read_as_zeros(state: int, mib: int) -> None:
    blocks = opened(crafted([at(mib, state), at(4), at(mib, state)], noise(MIB))).blocks
    assert read_all(blocks) == bytes(MIB) + noise(MIB) + bytes(MIB)
    assert [extent.is_zero for extent in blocks.extents(0, 3 * MIB)] == [True, False, True]


@pytest.mark.parametrize(
    ("flags", "variant"), [(0, "dynamic, blocks of 1 MiB"), (1, "fixed, blocks of 1 MiB")]
)
def test_the_variant_tells_kind_and_blocks(flags: int, variant: str) -> None:
    assert opened(crafted([0, 0, 0], b"", Parts(disk=Disk(flags=flags)))).variant == variant


def test_blocks_lie_in_any_order_and_any_range_is_read() -> None:
    content = text(3 * MIB)
    blocks = opened(crafted([at(6), at(4), at(5)], content[MIB:] + content[:MIB])).blocks
    for offset, length in [(0, 3 * MIB), (MIB - 3, 7), (2 * MIB - 1, MIB), (777, 2 * MIB)]:
        assert read_range(blocks, offset, length) == content[offset : offset + length]


def test_the_end_of_the_last_block_may_be_missing() -> None:
    disk = Disk(size=MIB + 512)
    assert read_all(opened(crafted([ZERO, at(4)], text(512), Parts(disk=disk))).blocks) == bytes(MIB) + text(
        512
    )


@pytest.mark.parametrize("logical", [512, 4096])
@pytest.mark.parametrize("physical", [512, 4096])
def test_sectors_have_512_or_4096_bytes(logical: int, physical: int) -> None:
    disk = Disk(size=12 << 30, logical=logical, physical=physical)
    ratio = (logical << 23) // BLOCK
    entries = [ZERO] * (12_288 + 12_288 // ratio)
    entries[11_000 + 11_000 // ratio] = at(4)
    blocks = opened(crafted(entries, noise(MIB), Parts(disk=disk))).blocks
    assert read_range(blocks, 11_000 * MIB, MIB) == noise(MIB)


@pytest.mark.parametrize(
    "headers",
    [
        (Header(checksum=1).pack(), Header().pack()),
        (Header().pack(), Header(signature=b"dead").pack()),
        (Header(sequence=9).pack(), Header(sequence=8, version=3).pack()),
        (Header(sequence=8, log_offset=1 << 50).pack(), Header(sequence=1 << 63).pack()),
        (Header().pack(), Header().pack()),
        (Header(log_version=7).pack(), bytes(4096)),
    ],
)
def test_the_newest_valid_header_counts(headers: tuple[bytes, bytes]) -> None:
    blocks = opened(crafted([at(4), 0, 0], noise(MIB), Parts(headers=headers))).blocks
    assert read_range(blocks, 0, MIB) == noise(MIB)


@pytest.mark.parametrize("damaged", [0, 1])
def test_one_valid_region_table_is_enough(damaged: int) -> None:
    tables = (region_table(checksum=3), region_table()) if damaged else (region_table(), bytes(65536))
    blocks = opened(crafted([at(4), 0, 0], noise(MIB), Parts(tables=tables))).blocks
    assert read_range(blocks, 0, MIB) == noise(MIB)


def test_optional_regions_and_items_are_passed_over() -> None:
    table = region_table([*REGIONS, (STRANGE, 4 * MIB, MIB, 0)])
    disk = Disk(flags=1, more=[(STRANGE, b"whatever", 1), (STRANGE, b"", 0), (LOGICAL[::-1], b"x", 0)])
    file = crafted([at(5), 0, 0], bytes(MIB) + noise(MIB), Parts(tables=(table, table), disk=disk))
    assert read_range(opened(file).blocks, 0, MIB) == noise(MIB)


def test_bytes_that_come_late_are_asked_for_at_once() -> None:
    source = LateSource(crafted([at(6), at(4), at(5)], text(3 * MIB)))
    image, rounds = with_fetches(source, lambda: open_image(source, "vhdx", LIMIT))
    assert rounds == 3  # signatures; headers and region tables; metadata
    assert source.fetched_bytes < MIB
    source.let_go()
    found, rounds = with_fetches(source, lambda: read_range(image.blocks, 100, 2 * MIB))
    assert rounds == 2  # the BAT, then all content
    assert found == (text(3 * MIB)[2 * MIB :] + text(3 * MIB))[100 : 2 * MIB + 100]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 16_000), st.integers(1, 300)), max_size=8),
    sectors=st.integers(1, 16_384),
    options=st.sampled_from(OPTIONS),
)
def test_disks_of_any_shape_are_read_as_qemu_reads_them(
    pieces: list[tuple[int, int]], sectors: int, options: str, tmp_path: Path, image_of: ImageOf
) -> None:
    inside = [(s * 512, noise(n * 512, s)) for s, n in pieces if s + n <= sectors]
    raw = sparse_file(tmp_path / "disk.raw", sectors * 512, inside)
    path = converted(raw, Layout("vhdx", options))
    assert read_all(image_of(path).blocks) == as_qemu_reads(path, "vhdx")


@pytest.mark.parametrize("seed", range(24))
def test_sound_files_are_read(seed: int) -> None:
    assert outcome(sound_file(random.Random(seed)), "vhdx") == "read"
