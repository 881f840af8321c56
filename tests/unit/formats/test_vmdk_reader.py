"""Reading VMDK as QEMU writes it: every option that changes the layout, and its idea of the disk."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.formats.detect import open_image
from imsd.formats.reader import OpenedImage
from imsd.formats.source import MemorySource
from imsd.formats.vmdk_decoder import VmdkDecoder, is_stream_optimized
from tests.unit.formats.crafted_vmdk import (
    GRAIN,
    MARKERS,
    NEWLINE,
    REDUNDANT,
    SECTOR,
    STREAM,
    ZERO_GRAINS,
    Fields,
    StreamFile,
    sound_file,
    sparse,
    stream,
    stream_with_tables_at_end,
    stream_with_tables_first,
)
from tests.unit.formats.disk_files import (
    GIB,
    KIB,
    LIMIT,
    MIB,
    LateSource,
    check_cover,
    mixed_pieces,
    noise,
    qemu_img,
    read_all,
    read_range,
    sparse_file,
    text,
    with_fetches,
)
from tests.unit.formats.stream_feeding import decoded

ImageOf = Callable[[Path], OpenedImage]

SIZE = 5 * MIB + 1536

LAYOUTS = [
    f"subformat={subformat}{more}"
    for subformat in ("monolithicSparse", "streamOptimized")
    for more in (
        "",
        ",zeroed_grain=on",
        ",compat6=on",
        ",hwversion=21",
        ",adapter_type=lsilogic,toolsversion=123",
        ",adapter_type=buslogic",
        ",adapter_type=legacyESX",
    )
    if subformat == "monolithicSparse" or "zeroed" not in more
]


def converted(raw: Path, options: str) -> Path:
    path = raw.with_name("disk.vmdk")
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, path)
    return path


def opened(file: bytes) -> OpenedImage:
    return open_image(MemorySource(file), "vmdk", LIMIT)


@pytest.mark.parametrize("options", LAYOUTS)
def test_the_disk_is_the_one_qemu_wrote(options: str, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", SIZE, mixed_pieces(SIZE))
    path = converted(raw, options)
    image = image_of(path)
    assert image.format_name == "vmdk"
    assert not image.findings
    assert read_all(image.blocks) == raw.read_bytes()
    if "stream" in options:
        assert decoded(VmdkDecoder, path.read_bytes())[0] == raw.read_bytes()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_zeros_are_known_without_reading_them(subformat: str, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 5 * GIB, [(0, text(512)), (3 * GIB, text(512))])
    blocks = image_of(converted(raw, f"subformat={subformat}")).blocks
    extents = blocks.extents(0, 5 * GIB)
    check_cover(extents, 0, 5 * GIB)
    data = [(extent.start, extent.length) for extent in extents if not extent.is_zero]
    assert data == [(0, GRAIN), (3 * GIB, GRAIN)]


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_any_range_is_read(subformat: str, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", SIZE, mixed_pieces(SIZE, seed=2))
    content = raw.read_bytes()
    blocks = image_of(converted(raw, f"subformat={subformat}")).blocks
    chosen = random.Random(1)
    for _ in range(200):
        offset = chosen.randrange(SIZE)
        length = chosen.randrange(1, SIZE - offset + 1)
        assert read_range(blocks, offset, length) == content[offset : offset + length]
        check_cover(blocks.extents(offset, length), offset, length)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_a_window_needs_few_fetches(subformat: str, tmp_path: Path) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 8 * MIB, [(0, text(8 * MIB))])
    source = LateSource(converted(raw, f"subformat={subformat}").read_bytes())
    image, rounds = with_fetches(source, lambda: open_image(source, "vmdk", LIMIT))
    assert rounds <= 2
    before = source.fetched_bytes
    content, rounds = with_fetches(source, lambda: read_range(image.blocks, 0, 4 * MIB))
    assert content == raw.read_bytes()[: 4 * MIB]
    assert rounds <= 3  # directory, table, grains
    assert source.fetched_bytes - before < 6 * MIB


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_a_file_of_any_kind_is_what_qemu_sees(seed: int, tmp_path: Path) -> None:
    file = sound_file(random.Random(seed))
    path, raw = tmp_path / "disk.vmdk", tmp_path / "disk.raw"
    path.write_bytes(file)
    qemu_img("convert", "-f", "vmdk", "-O", "raw", path, raw)
    disk = raw.read_bytes()
    assert read_all(opened(file).blocks) == disk
    if is_stream_optimized(file):
        assert decoded(VmdkDecoder, file, random.Random(seed), 0.2)[0] == disk


def test_the_redundant_tables_are_not_looked_at() -> None:
    fields = Fields(flags=NEWLINE | REDUNDANT, redundant=0xFFFF_FFFF)
    assert read_all(opened(sparse({1: text(GRAIN)}, fields)).blocks)[GRAIN : 2 * GRAIN] == text(GRAIN)


def test_a_grain_that_is_marked_zero_is_zero() -> None:
    fields = Fields(version=2, flags=NEWLINE | ZERO_GRAINS)
    blocks = opened(sparse({0: text(GRAIN), 1: 1}, fields)).blocks
    assert read_all(blocks) == text(GRAIN) + bytes(3 * GRAIN)
    assert [extent.is_zero for extent in blocks.extents(0, 4 * GRAIN)] == [False, True]


@pytest.mark.parametrize("grain", [8, 64, 256, 2048])
def test_grains_of_other_sizes_are_read(grain: int) -> None:
    length = grain * SECTOR
    fields = Fields(grain=grain, capacity=4 * grain)
    content = text(2 * length)
    expected = bytes(length) + content + bytes(length)
    assert read_all(opened(sparse({1: content[:length], 2: content[length:]}, fields)).blocks) == expected
    packed = replace(STREAM, grain=grain, capacity=4 * grain)
    file = stream({1: content[:length], 2: content[length:]}, packed)
    assert read_all(opened(file).blocks) == expected
    assert decoded(VmdkDecoder, file)[0] == expected


@pytest.mark.parametrize("write", [stream, stream_with_tables_at_end, stream_with_tables_first])
def test_the_last_grain_may_end_with_the_disk(write: Callable[[dict[int, bytes], Fields], bytes]) -> None:
    fields = replace(STREAM, capacity=130)
    file = write({0: text(GRAIN), 1: noise(2 * SECTOR)}, fields)
    disk = text(GRAIN) + noise(2 * SECTOR)
    assert read_all(opened(file).blocks) == disk
    assert read_range(opened(file).blocks, GRAIN + 100, 500) == disk[GRAIN + 100 : GRAIN + 600]
    assert decoded(VmdkDecoder, file)[0] == disk


@pytest.mark.parametrize("write", [sparse, stream, stream_with_tables_first])
def test_a_file_that_was_not_closed_is_read_with_a_finding(
    write: Callable[[dict[int, bytes], Fields], bytes],
) -> None:
    fields = replace(Fields() if write is sparse else STREAM, unclean=1)
    image = opened(write({0: text(GRAIN)}, fields))
    assert [finding.code for finding in image.findings] == ["VMDK_NOT_CLOSED"]
    assert read_range(image.blocks, 0, GRAIN) == text(GRAIN)


def test_features_that_may_be_ignored_are_ignored() -> None:
    file = sparse({0: text(GRAIN)}, Fields(flags=NEWLINE | 1 << 15))
    assert read_range(opened(file).blocks, 0, GRAIN) == text(GRAIN)


def test_line_ends_count_only_when_the_header_says_so() -> None:
    file = sparse({0: text(GRAIN)}, Fields(flags=0, newlines=bytes(4)))
    assert read_range(opened(file).blocks, 0, GRAIN) == text(GRAIN)


def test_a_footer_may_say_that_the_file_was_not_closed() -> None:
    file = StreamFile().grain(0, text(GRAIN)).table(0).directory()
    file.footer(replace(STREAM, directory=file.directory_sector, unclean=1))
    content = file.end()
    assert [finding.code for finding in opened(content).findings] == ["VMDK_NOT_CLOSED"]
    assert [finding.code for finding in decoded(VmdkDecoder, content)[1].findings] == ["VMDK_NOT_CLOSED"]


def test_what_follows_a_grain_in_its_stream_is_not_looked_at() -> None:
    file = StreamFile()
    file.grain(0, text(GRAIN) + b"more").table(0)
    assert read_range(opened(file.close()).blocks, 0, GRAIN) == text(GRAIN)


def test_a_grain_may_be_compressed_to_more_than_it_is() -> None:
    file = StreamFile()
    packer = zlib.compressobj(0)
    stored = b"".join(
        packer.compress(noise(GRAIN)[at : at + 64]) + packer.flush(zlib.Z_FULL_FLUSH)
        for at in range(0, GRAIN, 64)
    )
    stored += packer.flush()
    assert GRAIN < len(stored) < 2 * GRAIN
    file.entries[0] = [file.sector] + [0] * 511
    file.add(struct.pack("<QI", 0, len(stored)) + stored).table(0)
    content = file.close()
    assert read_range(opened(content).blocks, 0, GRAIN) == noise(GRAIN)
    assert decoded(VmdkDecoder, content)[0].startswith(noise(GRAIN))


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        (sparse({}, Fields(grain=8)), "monolithicSparse, version 1, grains of 4 KiB"),
        (stream({}), "streamOptimized, version 3, grains of 64 KiB"),
    ],
)
def test_the_variant_is_told(file: bytes, variant: str) -> None:
    assert opened(file).variant == variant


def test_a_sparse_file_is_not_for_one_pass() -> None:
    assert not is_stream_optimized(sparse({0: text(GRAIN)}))
    assert not is_stream_optimized(Fields(flags=NEWLINE | MARKERS).pack())
    assert not is_stream_optimized(STREAM.pack()[:70])
    assert not is_stream_optimized(bytes(64 * KIB))
    assert not is_stream_optimized(replace(STREAM, directory=1).pack())
    assert is_stream_optimized(stream({}))
    assert is_stream_optimized(stream_with_tables_first({}))
