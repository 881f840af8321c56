"""Reading QCOW2 as QEMU writes it: every option that changes the layout, and its idea of the disk."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.formats.detect import open_image
from imsd.formats.reader import OpenedImage
from imsd.formats.source import Extent, MemorySource
from tests.unit.formats.crafted_qcow2 import COPIED, Fields, crafted, finely_divided
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

ImageOf = Callable[[Path], OpenedImage]

SIZE = 5 * MIB + 1536

LAYOUTS = [
    "compat=0.10",
    "compat=1.1",
    "compat=1.1,lazy_refcounts=on",
    "compat=0.10,cluster_size=512",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=1M",
    "cluster_size=2M",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=128k",
    "extended_l2=on,cluster_size=2M",
    *(f"refcount_bits={1 << order}" for order in range(7)),
    "preallocation=metadata",
    "preallocation=falloc",
    "preallocation=full,cluster_size=2M",
    "extended_l2=on,preallocation=metadata",
]

COMPRESSED_LAYOUTS = [
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=2M",
    "compression_type=zstd",
    "compression_type=zstd,cluster_size=4k",
    "compression_type=zstd,cluster_size=2M",
    "extended_l2=on,compression_type=zstd",
    "extended_l2=on,cluster_size=64k",
]


def raw_disk(tmp_path: Path, size: int = SIZE) -> Path:
    return sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))


def converted(raw: Path, options: str, *flags: str) -> Path:
    path = raw.with_name("disk.qcow2")
    qemu_img("convert", *flags, "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    return path


def run_qemu_io(path: Path, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *arguments, path], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("options", LAYOUTS)
def test_a_plain_file_of_any_layout_reads_as_the_disk(
    options: str, tmp_path: Path, image_of: ImageOf
) -> None:
    raw = raw_disk(tmp_path)
    opened = image_of(converted(raw, options))
    assert opened.format_name == "qcow2"
    assert not opened.findings
    assert opened.blocks.size_bytes == SIZE
    assert read_all(opened.blocks) == raw.read_bytes()
    assert read_range(opened.blocks, 0, SIZE) == raw.read_bytes()


@pytest.mark.parametrize("options", COMPRESSED_LAYOUTS)
def test_a_compressed_file_of_any_layout_reads_as_the_disk(
    options: str, tmp_path: Path, image_of: ImageOf
) -> None:
    raw = raw_disk(tmp_path)
    blocks = image_of(converted(raw, options, "-c")).blocks
    assert read_all(blocks) == raw.read_bytes()
    assert read_range(blocks, 0, SIZE) == raw.read_bytes()


@pytest.mark.parametrize(
    "options", ["cluster_size=64k", "cluster_size=512", "extended_l2=on,cluster_size=32k"]
)
@pytest.mark.parametrize("flags", [(), ("-c",)])
def test_any_part_of_a_disk_can_be_read(
    options: str, flags: tuple[str, ...], tmp_path: Path, image_of: ImageOf
) -> None:
    raw = raw_disk(tmp_path)
    content = raw.read_bytes()
    blocks = image_of(converted(raw, options, *flags)).blocks
    chosen = random.Random(1)
    for _ in range(150):
        start = chosen.randrange(SIZE)
        length = min(chosen.choice([1, 511, 4096, 65_537, 300_000]), SIZE - start)
        assert read_range(blocks, start, length) == content[start : start + length]
        extents = blocks.extents(start, length)
        check_cover(extents, start, length)
        assert not any(any(content[e.start : e.end]) for e in extents if e.is_zero)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 600), st.booleans()), max_size=12),
    options=st.sampled_from(LAYOUTS + COMPRESSED_LAYOUTS),
    is_compressed=st.booleans(),
)
def test_our_disk_is_the_one_qemu_sees(
    pieces: list[tuple[int, int, bool]], options: str, is_compressed: bool, tmp_path: Path, image_of: ImageOf
) -> None:
    content = [(sector * 512, (noise if n else text)(count * 512, sector)) for sector, count, n in pieces]
    size = max([MIB, *(offset + len(data) for offset, data in content)])
    raw = sparse_file(tmp_path / "disk.raw", size, content)
    path = converted(raw, options, *(["-c"] if is_compressed and "prealloc" not in options else []))
    back = tmp_path / "back.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, back)
    assert read_all(image_of(path).blocks) == back.read_bytes()


@pytest.mark.parametrize("options", ["cluster_size=64k", "extended_l2=on,cluster_size=64k", "compat=0.10"])
def test_a_disk_that_a_guest_wrote_to_reads_as_qemu_sees_it(
    options: str, tmp_path: Path, image_of: ImageOf
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "3M")
    chosen = random.Random(7)
    commands = []
    for number in range(60):
        offset = chosen.randrange(0, 3 * MIB - 200_000) // 512 * 512
        length = chosen.choice([512, 2048, 70_144, 131_072])
        verb = chosen.choice([f"write -P {number + 1}", f"write -P {number + 1}", "write -z", "discard"])
        commands.append(f"{verb} {offset} {length}")
    run_qemu_io(path, *commands)
    back = tmp_path / "back.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, back)
    blocks = image_of(path).blocks
    assert read_all(blocks) == back.read_bytes()
    assert read_range(blocks, 0, 3 * MIB) == back.read_bytes()


def test_extents_are_exact_to_the_subcluster(tmp_path: Path, image_of: ImageOf) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=64k", path, "1M")
    run_qemu_io(path, "write -P 1 4k 2k", "write -P 2 6k 2k", "write -z 6k 2k", "write -P 3 128k 64k")
    assert image_of(path).blocks.extents(0, MIB) == [
        Extent(0, 4 * KIB, True),
        Extent(4 * KIB, 2 * KIB, False),
        Extent(6 * KIB, 122 * KIB, True),
        Extent(128 * KIB, 64 * KIB, False),
        Extent(192 * KIB, MIB - 192 * KIB, True),
    ]


def test_zero_clusters_that_are_allocated_are_zero_extents(tmp_path: Path, image_of: ImageOf) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    run_qemu_io(path, "write -P 1 0 1M", "write -z 128k 128k")
    blocks = image_of(path).blocks
    assert [extent.is_zero for extent in blocks.extents(0, MIB)] == [False, True, False]
    assert read_range(blocks, 128 * KIB, 128 * KIB) == bytes(128 * KIB)


def test_only_the_current_state_is_read_of_a_file_with_snapshots(tmp_path: Path, image_of: ImageOf) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    run_qemu_io(path, "write -P 1 0 256k")
    qemu_img("snapshot", "-c", "before", path)
    run_qemu_io(path, "write -P 2 64k 64k")
    opened = image_of(path)
    assert read_range(opened.blocks, 0, 192 * KIB) == b"\1" * 65536 + b"\2" * 65536 + b"\1" * 65536
    assert [finding.code for finding in opened.findings] == ["QCOW2_SNAPSHOTS_IGNORED"]


def test_bitmaps_are_ignored_with_a_finding(tmp_path: Path, image_of: ImageOf) -> None:
    path = converted(raw_disk(tmp_path), "compat=1.1")
    qemu_img("bitmap", "--add", path, "changes")
    opened = image_of(path)
    assert [finding.code for finding in opened.findings] == ["QCOW2_BITMAPS_IGNORED"]
    assert read_all(opened.blocks) == (tmp_path / "disk.raw").read_bytes()


def test_a_file_that_was_not_closed_is_read_with_a_finding(tmp_path: Path, image_of: ImageOf) -> None:
    path = converted(raw_disk(tmp_path), "compat=1.1,lazy_refcounts=on")
    with path.open("r+b") as file:
        file.seek(79)
        file.write(b"\1")
    opened = image_of(path)
    assert [finding.code for finding in opened.findings] == ["QCOW2_NOT_CLOSED"]
    assert read_all(opened.blocks) == (tmp_path / "disk.raw").read_bytes()


def test_a_disk_that_ends_inside_a_sector_goes_on_with_zeros_and_a_finding() -> None:
    file = crafted([3 << 16 | COPIED], b"\5" * (64 * KIB), Fields(size=1000))
    opened = open_image(MemorySource(file), None, LIMIT)
    assert opened.blocks.size_bytes == 1024
    assert read_range(opened.blocks, 0, 1024) == b"\5" * 1000 + bytes(24)
    assert [finding.code for finding in opened.findings] == ["QCOW2_SIZE_ROUNDED_UP"]


def test_a_huge_sparse_disk_costs_nothing_to_look_at(tmp_path: Path, image_of: ImageOf) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, str(60 << 40))
    run_qemu_io(path, f"write -P 5 {50 << 40} 64k")
    blocks = image_of(path).blocks
    assert [extent.is_zero for extent in blocks.extents(0, 60 << 40)] == [True, False, True]
    assert read_range(blocks, (50 << 40) - 512, 1024) == bytes(512) + b"\5" * 512


def test_a_finely_divided_disk_is_looked_at_in_bounds() -> None:
    size = GIB // 4 * 3
    source = LateSource(finely_divided(size))
    opened, _ = with_fetches(source, lambda: open_image(source, None, LIMIT))
    source.fetched_bytes = 0
    extents, rounds = with_fetches(source, lambda: opened.blocks.extents(0, size))
    check_cover(extents, 0, size)
    assert [extent.is_zero for extent in extents] == [True, False]
    assert rounds < 10
    assert source.fetched_bytes < 12 * MIB
    content, _ = with_fetches(source, lambda: read_range(opened.blocks, 0, MIB))
    assert content == bytes(MIB)


def test_a_disk_divided_into_subclusters_is_looked_at_in_bounds() -> None:
    cluster, size = 16 * KIB, GIB // 4
    fields = Fields(cluster_bits=14, size=size, l1_entries=16, l1_offset=cluster, incompatible=16)
    l1 = np.full(16, 2 * cluster | COPIED, np.uint64).astype(">u8").tobytes()
    l2 = np.tile(np.array([3 * cluster | COPIED, 0x5555_5555], np.uint64), cluster // 16)
    file = b"".join(part.ljust(cluster, b"\0") for part in (fields.pack(), l1, l2.astype(">u8").tobytes()))
    blocks = open_image(MemorySource(file + b"\5" * cluster), None, LIMIT).blocks
    extents = blocks.extents(0, size)
    check_cover(extents, 0, size)
    assert len(extents) <= 1 << 17
    assert [extent.is_zero for extent in extents[:3]] == [False, True, False]
    assert not extents[-1].is_zero
    assert read_range(blocks, size - 1024, 1024) == b"\5" * 512 + bytes(512)


@pytest.mark.parametrize(
    ("options", "flags", "rounds"),
    [
        ("cluster_size=64k", (), 3),
        ("cluster_size=64k", ("-c",), 3),
        ("cluster_size=512", (), 4),
        ("extended_l2=on,cluster_size=64k", (), 3),
        ("compression_type=zstd,cluster_size=2M", ("-c",), 3),
    ],
)
def test_a_late_file_needs_header_tables_and_data_once_each(
    options: str, flags: tuple[str, ...], rounds: int, tmp_path: Path
) -> None:
    raw = raw_disk(tmp_path)
    source = LateSource(converted(raw, options, *flags).read_bytes())
    opened, opening = with_fetches(source, lambda: open_image(source, "qcow2", LIMIT))
    assert opening == 1
    content, reading = with_fetches(source, lambda: read_range(opened.blocks, 0, 4 * MIB))
    assert content == raw.read_bytes()[: 4 * MIB]
    assert reading <= rounds
    source.let_go()
    again, reading = with_fetches(source, lambda: read_range(opened.blocks, MIB, MIB))
    assert again == raw.read_bytes()[MIB : 2 * MIB]
    assert reading <= 1
