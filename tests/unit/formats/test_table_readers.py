"""Reading QCOW, QED and VDI as QEMU writes them, in every layout, and as it sees the disk."""

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
from tests.unit.formats import crafted_qcow, crafted_qed, crafted_vdi
from tests.unit.formats.disk_files import (
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
from tests.unit.formats.qemu_files import Layout, as_qemu_reads, can_qemu_open, converted, write_as_guest

ImageOf = Callable[[Path], OpenedImage]

SIZE = 5 * MIB + 1536

LAYOUTS = [
    Layout("qcow"),
    Layout("qcow", is_compressed=True),
    Layout("qed"),
    Layout("qed", "cluster_size=4k"),
    Layout("qed", "cluster_size=4k,table_size=2"),
    Layout("qed", "cluster_size=4k,table_size=16"),
    Layout("qed", "cluster_size=1M,table_size=2"),
    Layout("qed", "cluster_size=4M,table_size=2"),
    Layout("vdi"),
    Layout("vdi", "static=on"),
    Layout("vdi", "static=on,preallocation=full"),
]

CRAFTED = {"qcow": crafted_qcow.sound_disk, "qed": crafted_qed.sound_disk, "vdi": crafted_vdi.sound_disk}


def raw_disk(tmp_path: Path, size: int = SIZE) -> Path:
    return sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_file_of_any_layout_reads_as_the_disk(layout: Layout, tmp_path: Path, image_of: ImageOf) -> None:
    raw = raw_disk(tmp_path)
    opened = image_of(converted(raw, layout))
    assert opened.format_name == layout.name
    assert not opened.findings
    assert opened.blocks.size_bytes == SIZE
    assert read_all(opened.blocks) == raw.read_bytes()
    assert read_range(opened.blocks, 0, SIZE) == raw.read_bytes()


@pytest.mark.parametrize(
    ("layout", "variant"),
    [
        (Layout("qcow"), "clusters of 4 KiB"),
        (Layout("qed"), "clusters of 64 KiB, tables of 256 KiB"),
        (Layout("vdi"), "dynamic, blocks of 1 MiB"),
        (Layout("vdi", "static=on"), "static, blocks of 1 MiB"),
    ],
    ids=str,
)
def test_the_variant_of_a_format_is_told(
    layout: Layout, variant: str, tmp_path: Path, image_of: ImageOf
) -> None:
    assert image_of(converted(raw_disk(tmp_path, 2 * MIB), layout)).variant == variant


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_any_part_of_a_disk_can_be_read(layout: Layout, tmp_path: Path, image_of: ImageOf) -> None:
    raw = raw_disk(tmp_path)
    content = raw.read_bytes()
    blocks = image_of(converted(raw, layout)).blocks
    chosen = random.Random(1)
    for _ in range(60):
        start = chosen.randrange(SIZE)
        length = min(chosen.choice([1, 511, 4096, 65_537, 300_000]), SIZE - start)
        assert read_range(blocks, start, length) == content[start : start + length]
        extents = blocks.extents(start, length)
        check_cover(extents, start, length)
        assert not any(any(content[e.start : e.end]) for e in extents if e.is_zero)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 600), st.booleans()), max_size=12),
    layout=st.sampled_from(LAYOUTS),
)
def test_our_disk_is_the_one_qemu_sees(
    pieces: list[tuple[int, int, bool]], layout: Layout, tmp_path: Path, image_of: ImageOf
) -> None:
    content = [(sector * 512, (noise if n else text)(count * 512, sector)) for sector, count, n in pieces]
    size = max([MIB, *(offset + len(data) for offset, data in content)])
    path = converted(sparse_file(tmp_path / "disk.raw", size, content), layout)
    assert read_all(image_of(path).blocks) == as_qemu_reads(path, layout.name)


@pytest.mark.parametrize("layout", [Layout("qcow"), Layout("qed", "cluster_size=4k"), Layout("vdi")], ids=str)
def test_a_disk_that_a_guest_wrote_to_reads_as_qemu_sees_it(
    layout: Layout, tmp_path: Path, image_of: ImageOf
) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", layout.name, *(["-o", layout.options] * bool(layout.options)), path, "30M")
    chosen = random.Random(7)
    commands = []
    for number in range(60):
        offset = chosen.randrange(0, 30 * MIB - 200_000) // 512 * 512
        length = chosen.choice([512, 2048, 70_144, 131_072])
        verb = chosen.choice([f"write -P {number + 1}", f"write -P {number + 1}", "write -z"])
        commands.append(f"{verb} {offset} {length}")
    write_as_guest(path, layout.name, *commands)
    blocks = image_of(path).blocks
    expected = as_qemu_reads(path, layout.name)
    assert any(expected)
    assert read_all(blocks) == expected
    assert read_range(blocks, 0, 30 * MIB) == expected


@pytest.mark.parametrize("name", CRAFTED)
def test_a_sound_file_made_by_hand_reads_as_its_disk(name: str) -> None:
    for seed in range(60):
        file, disk = CRAFTED[name](random.Random(seed))
        blocks = open_image(MemorySource(file), name, LIMIT).blocks
        assert read_all(blocks) == disk
        assert read_range(blocks, 0, len(disk)) == disk


@pytest.mark.parametrize("name", CRAFTED)
def test_qemu_sees_the_same_disk_in_a_sound_file(name: str, tmp_path: Path) -> None:
    seen = 0
    for seed in range(20):
        file, disk = CRAFTED[name](random.Random(seed))
        path = tmp_path / f"disk-{seed}"
        path.write_bytes(file)
        if can_qemu_open(path, name):  # not one with QED tables of one cluster, or VDI blocks of 4 KiB
            assert as_qemu_reads(path, name) == disk
            seen += 1
    assert seen >= 5


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_late_file_needs_header_tables_and_data_once_each(layout: Layout, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path)
    source = LateSource(converted(raw, layout).read_bytes())
    opened, opening = with_fetches(source, lambda: open_image(source, layout.name, LIMIT))
    assert opening <= 2
    content, reading = with_fetches(source, lambda: read_range(opened.blocks, 0, 4 * MIB))
    assert content == raw.read_bytes()[: 4 * MIB]
    assert reading <= 3
    source.let_go()
    again, reading = with_fetches(source, lambda: read_range(opened.blocks, MIB, MIB))
    assert again == raw.read_bytes()[MIB : 2 * MIB]
    assert reading <= 1


@pytest.mark.parametrize("layout", [Layout("qcow"), Layout("qed"), Layout("vdi")], ids=str)
def test_a_huge_sparse_disk_costs_nothing_to_look_at(
    layout: Layout, tmp_path: Path, image_of: ImageOf
) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", layout.name, path, "600G")
    write_as_guest(path, layout.name, f"write -P 5 {500 << 30} 64k")
    blocks = image_of(path).blocks
    extents = blocks.extents((500 << 30) - 3 * MIB, 100 * MIB)
    assert [extent.is_zero for extent in extents] == [True, False, True]
    assert extents[0].length == 3 * MIB
    assert read_range(blocks, (500 << 30) - 512, 1024) == bytes(512) + b"\5" * 512
    assert read_range(blocks, 0, 64 * KIB) == bytes(64 * KIB)
