"""VHD files read: those that QEMU writes, and those made by hand for what QEMU never writes."""

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
from tests.unit.formats.crafted_vhd import BLOCK, FIXED, Block, Footer, Header, dynamic, fixed, sound_file
from tests.unit.formats.disk_files import (
    GIB,
    KIB,
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
    return open_image(MemorySource(file), "vhd", LIMIT)


# Around whole MiB, whole blocks, and where QEMU rounds to the geometry.
SIZES = [512, 2 * MIB - 512, 2 * MIB, 2 * MIB + 512, 10 * MIB, 33 * MIB + 4096]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", ["", "force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"])
def test_what_qemu_writes_is_read_as_qemu_reads_it(
    options: str, size: int, tmp_path: Path, image_of: ImageOf
) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = converted(raw, Layout("vpc", options))
    image = image_of(path)
    assert image.format_name == "vhd"
    assert image.variant == ("fixed" if "fixed" in options else "dynamic, blocks of 2 MiB")
    assert not image.findings
    assert read_all(image.blocks) == as_qemu_reads(path, "vpc")
    assert ("force_size" not in options) or image.blocks.size_bytes == size


@pytest.mark.parametrize("options", ["", "force_size=on"])
@pytest.mark.parametrize("size", [GIB, 127 * GIB, 136 * GIB, 2040 * GIB])
def test_the_size_of_large_disks_is_that_of_qemu(
    size: int, options: str, tmp_path: Path, image_of: ImageOf
) -> None:
    path = tmp_path / "disk.vhd"
    qemu_img("create", "-q", "-f", "vpc", *(["-o", options] if options else []), path, str(size))
    blocks = image_of(path).blocks
    assert f"({blocks.size_bytes} bytes)" in qemu_img("info", "-f", "vpc", path)
    assert size <= blocks.size_bytes < size + 8 * MIB
    assert all(extent.is_zero for extent in blocks.extents(0, blocks.size_bytes))


def test_extents_tell_blocks_that_are_not_there(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 40 * MIB, [(12 * MIB, text(MIB))])
    path = converted(raw, Layout("vpc", "force_size=on"))
    data = [(extent.start, extent.length) for extent in image_of(path).blocks.extents(0, 40 * MIB)]
    assert data == [(0, 12 * MIB), (12 * MIB, 2 * MIB), (14 * MIB, 26 * MIB)]


@pytest.mark.parametrize("cylinders", [0, 1, 65535])
@pytest.mark.parametrize("creator", [b"win ", b"vpc ", b"qemu", b"qem2", b"vbox", b"\0\0\0\0"])
def test_the_current_size_counts_whoever_wrote_the_file(creator: bytes, cylinders: int) -> None:
    footer = Footer(creator=creator, cylinders=cylinders, heads=16, sectors=63, original_size=7)
    assert opened(dynamic({}, footer)).blocks.size_bytes == 3 * BLOCK


def test_blocks_lie_in_any_order_and_any_range_is_read() -> None:
    content = [text(BLOCK), noise(BLOCK), text(BLOCK, 7)]
    file = dynamic({number: Block(content[number]) for number in (2, 0)})
    blocks = opened(file).blocks
    disk = content[0] + bytes(BLOCK) + content[2]
    assert read_all(blocks) == disk
    for offset, length in [(0, 1), (511, 2), (BLOCK - 3, 7), (2 * BLOCK - 1, BLOCK + 1), (777, 2 * BLOCK)]:
        assert read_range(blocks, offset, length) == disk[offset : offset + length]


def test_a_sector_whose_bit_is_0_reads_as_zeros() -> None:
    bitmap = bytearray(b"\xff" * 128)
    bitmap[0] = 0b0111_1110  # sectors 0 and 7
    bitmap[1:3] = b"\0\0"  # 8 to 23
    bitmap[127] = 0xF0  # the last four
    file = dynamic({1: Block(b"\xaa" * BLOCK, bytes(bitmap))})
    disk = bytearray(BLOCK) + b"\xaa" * BLOCK + bytearray(BLOCK)
    for first, stop in [(0, 1), (7, 24), (1020, 1024)]:
        disk[BLOCK + first * 512 : BLOCK + stop * 512] = bytes((stop - first) * 512)
    blocks = opened(file).blocks
    assert read_all(blocks) == disk
    for offset in range(BLOCK - 700, BLOCK + 13_000, 333):
        assert read_range(blocks, offset, 700) == disk[offset : offset + 700]


@settings(max_examples=40)
@given(st.binary(min_size=128, max_size=128), st.integers(0, BLOCK - 1), st.integers(1, 40_000))
def test_any_bitmap_hides_what_it_says(bitmap: bytes, offset: int, length: int) -> None:
    blocks = opened(dynamic({0: Block(b"\xaa" * BLOCK, bitmap)}, header=Header())).blocks
    bits = "".join(f"{byte:08b}" for byte in bitmap)
    written = "".join(bit * 512 for bit in bits).ljust(3 * BLOCK, "0")[offset : offset + length]
    assert read_range(blocks, offset, length) == bytes(0xAA * int(bit) for bit in written)


def test_a_bitmap_may_lie_in_the_block_before() -> None:
    bits = b"\x0f" * 128
    first = b"\xaa" * (BLOCK - 512) + bits.ljust(512, b"\0")
    place = 1536 + 512 + 512
    file = dynamic({0: Block(first), 2: Block(b"\xbb" * BLOCK)}, entries={1: (place + BLOCK) // 512 - 1})
    second = bytearray(file[place + BLOCK : place + 2 * BLOCK])
    for sector in range(0, 1024, 8):
        second[sector * 512 : (sector + 4) * 512] = bytes(4 * 512)
    blocks = opened(file).blocks
    assert read_range(blocks, 0, 2 * BLOCK) == first + second
    assert read_range(blocks, BLOCK - 9, 5000) == (first + second)[BLOCK - 9 : BLOCK + 4991]


@pytest.mark.parametrize("length", [512, 511])
def test_footers_of_old_files_are_shorter(length: int) -> None:
    footer = Footer(length=length)
    assert read_all(opened(dynamic({0: Block(text(BLOCK))}, footer)).blocks) == text(BLOCK) + bytes(2 * BLOCK)
    content = noise(9 * 512)
    footer = Footer(kind=FIXED, size=len(content), length=length)
    assert read_all(opened(fixed(content, footer)).blocks) == content


@pytest.mark.parametrize("copy", [bytes(512), b"conectix" + noise(504), Footer(checksum=5).pack()])
def test_a_damaged_copy_of_the_footer_is_found(copy: bytes) -> None:
    image = opened(dynamic({0: Block(text(BLOCK))}, copy=copy))
    assert [finding.code for finding in image.findings] == ["VHD_FOOTER_DAMAGED"]
    assert read_range(image.blocks, 0, BLOCK) == text(BLOCK)


@pytest.mark.parametrize("damaged", [-512, -500, -1])
def test_a_damaged_footer_is_replaced_by_its_copy(damaged: int) -> None:
    file = bytearray(dynamic({0: Block(text(BLOCK))}))
    file[damaged] ^= 0x55
    image = opened(bytes(file))
    assert [finding.code for finding in image.findings] == ["VHD_FOOTER_DAMAGED"]
    assert read_range(image.blocks, 0, BLOCK) == text(BLOCK)


def test_a_saved_state_is_found() -> None:
    image = opened(fixed(bytes(512), Footer(kind=FIXED, size=512, saved_state=1)))
    assert [finding.code for finding in image.findings] == ["VHD_SAVED_STATE"]
    assert [finding.code for finding in opened(dynamic({}, Footer(saved_state=1))).findings] == [
        "VHD_SAVED_STATE"
    ]


def test_a_fixed_disk_may_start_with_the_cookie_of_a_footer() -> None:
    content = b"conectix".ljust(4096, b"\x11")
    image = opened(fixed(content))
    assert not image.findings
    assert read_all(image.blocks) == content


def test_holes_of_a_fixed_file_are_zeros(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 8 * MIB, [(4 * MIB, text(4096))])
    path = converted(raw, Layout("vpc", "subformat=fixed,force_size=on"))
    extents = image_of(path).blocks.extents(0, 8 * MIB)
    assert extents[-1].is_zero
    assert sum(extent.length for extent in extents if not extent.is_zero) <= 256 * KIB


def test_bytes_that_come_late_are_asked_for_at_once() -> None:
    content = text(BLOCK)
    source = LateSource(dynamic({2: Block(content, b"\xff" * 127 + b"\0"), 0: Block(content)}))
    image, rounds = with_fetches(source, lambda: open_image(source, "vhd", LIMIT))
    assert rounds <= 2
    source.let_go()
    buffer = bytearray(3 * BLOCK)
    _, rounds = with_fetches(source, lambda: image.blocks.read_into(0, memoryview(buffer)))
    assert rounds == 2  # the table, then bitmaps and content together
    assert buffer == content + bytes(BLOCK) + content[:-4096] + bytes(4096)


def test_a_fixed_file_may_come_late() -> None:
    source = LateSource(fixed(text(MIB)))
    image, _ = with_fetches(source, lambda: open_image(source, None, LIMIT))
    source.let_go()
    found, rounds = with_fetches(source, lambda: read_range(image.blocks, 4000, 5000))
    assert found == text(MIB)[4000:9000]
    assert rounds == 1


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 16_000), st.integers(1, 300)), max_size=8),
    sectors=st.integers(1, 16_384),
    is_fixed=st.booleans(),
)
def test_disks_of_any_shape_are_read_as_qemu_reads_them(
    pieces: list[tuple[int, int]], sectors: int, is_fixed: bool, tmp_path: Path, image_of: ImageOf
) -> None:
    inside = [(s * 512, noise(n * 512, s)) for s, n in pieces if s + n <= sectors]
    raw = sparse_file(tmp_path / "disk.raw", sectors * 512, inside)
    path = converted(raw, Layout("vpc", "subformat=fixed" if is_fixed else ""))
    assert read_all(image_of(path).blocks) == as_qemu_reads(path, "vpc")


@pytest.mark.parametrize("seed", range(24))
def test_sound_files_are_read(seed: int) -> None:
    assert outcome(sound_file(random.Random(seed)), "vhd") == "read"
