"""QCOW version 1: what only this format has, and files that are wrong."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imsd.formats.detect import open_image
from imsd.formats.reader import OpenedImage
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_qcow import (
    COMPRESSED,
    L1_OFFSET,
    Fields,
    compressed_entry,
    crafted,
    deflated,
)
from tests.unit.formats.crafted_tables import packed
from tests.unit.formats.disk_files import LIMIT, MIB, check_cover, noise, qemu_img, read_all, read_range, text
from tests.unit.formats.qemu_files import as_qemu_reads, write_as_guest
from tests.unit.formats.refusal_checks import open_reason, read_reason

CLUSTER = 4096
DATA = 2 * CLUSTER
ONE = crafted([DATA], text(CLUSTER))


def test_the_crafted_file_itself_is_right() -> None:
    opened = open_image(MemorySource(ONE), "qcow", LIMIT)
    assert read_all(opened.blocks) == text(CLUSTER) + bytes(3 * CLUSTER)
    assert not opened.findings


def test_clusters_of_512_bytes_as_qemu_makes_them_for_overlays_are_read(
    tmp_path: Path, image_of: Callable[[Path], OpenedImage]
) -> None:
    base, path = tmp_path / "base.raw", tmp_path / "disk.qcow"
    qemu_img("create", "-q", "-f", "raw", base, "20M")
    qemu_img("create", "-q", "-f", "qcow", "-b", base, "-F", "raw", path)
    write_as_guest(path, "qcow", "write -P 1 0 512", "write -P 2 700k 70k", "write -P 3 20479k 1k")
    with path.open("r+b") as file:  # no longer an overlay
        file.seek(8)
        file.write(bytes(12))
        file.seek(32)
        assert file.read(2) == bytes([9, 12])
    blocks = image_of(path).blocks
    assert read_all(blocks) == as_qemu_reads(path, "qcow")
    assert [(e.start, e.length) for e in blocks.extents(0, MIB) if not e.is_zero] == [
        (0, 512),
        (700 << 10, 70 << 10),
    ]


def test_a_disk_that_ends_inside_a_sector_goes_on_with_zeros_and_a_finding() -> None:
    for entry, data in [(DATA, b"\5" * 1000), (compressed_entry(DATA, 32), deflated(b"\5" * CLUSTER) * 4)]:
        file = crafted([entry], data, Fields(size=1000))
        opened = open_image(MemorySource(file), None, LIMIT)
        assert opened.blocks.size_bytes == 1024
        assert read_range(opened.blocks, 0, 1024) == b"\5" * 1000 + bytes(24)
        assert read_range(opened.blocks, 1000, 24) == bytes(24)
        assert [finding.code for finding in opened.findings] == ["QCOW_SIZE_ROUNDED_UP"]


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("IMAGE_BACKING_FILE", Fields(backing_offset=48, backing_bytes=11)),
        ("IMAGE_BACKING_FILE", Fields(backing_offset=48)),
        ("IMAGE_BACKING_FILE", Fields(backing_bytes=11)),
        ("IMAGE_ENCRYPTED", Fields(crypt_method=1)),
        ("IMAGE_ENCRYPTED", Fields(crypt_method=0xFFFF_FFFF)),
        ("IMAGE_EMPTY", Fields(size=0)),
        ("IMAGE_TOO_LARGE", Fields(size=LIMIT + 1)),
        ("IMAGE_TOO_LARGE", Fields(size=(1 << 64) - 1)),
        ("IMAGE_TOO_LARGE", Fields(size=1 << 45, cluster_bits=9, l2_bits=6)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=8)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=17)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=0)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=255)),
        ("IMAGE_MALFORMED", Fields(l2_bits=5)),
        ("IMAGE_MALFORMED", Fields(l2_bits=14)),
        ("IMAGE_MALFORMED", Fields(l2_bits=255)),
        ("IMAGE_MALFORMED", Fields(l1_offset=0)),
        ("IMAGE_MALFORMED", Fields(l1_offset=47)),
        ("IMAGE_TRUNCATED", Fields(l1_offset=1 << 40)),
        ("IMAGE_TRUNCATED", Fields(l1_offset=(1 << 64) - 8)),
        ("IMAGE_TRUNCATED", Fields(size=64 << 40)),
    ],
)
def test_a_wrong_header_is_refused(reason: str, fields: Fields) -> None:
    head = fields.pack()
    assert open_reason(head + ONE[len(head) :], "qcow") == reason


def test_a_limit_below_that_of_the_format_holds() -> None:
    assert open_reason(ONE, "qcow", limit=4 * CLUSTER - 1) == "IMAGE_TOO_LARGE"
    assert open_image(MemorySource(ONE), "qcow", 4 * CLUSTER).blocks.size_bytes == 4 * CLUSTER


@pytest.mark.parametrize("length", [8, 47, L1_OFFSET, L1_OFFSET + 7])
def test_a_file_cut_in_header_or_l1_is_refused(length: int) -> None:
    assert open_reason(ONE[:length], "qcow") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("length", [L1_OFFSET + 8, CLUSTER + 8, DATA - 1, DATA, DATA + 1, 3 * CLUSTER - 1])
def test_a_file_cut_in_tables_or_data_is_refused(length: int) -> None:
    assert read_reason(ONE[:length], "qcow") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("IMAGE_MALFORMED", DATA + 8),
        ("IMAGE_MALFORMED", 1),
        ("IMAGE_TRUNCATED", 3 * CLUSTER),
        ("IMAGE_TRUNCATED", DATA + 512),
        ("IMAGE_TRUNCATED", (1 << 63) - 512),
        ("IMAGE_MALFORMED", COMPRESSED | DATA),
        ("IMAGE_MALFORMED", COMPRESSED),
        ("IMAGE_MALFORMED", (1 << 64) - 1 - 511 & ~(0xFFF << 51) | COMPRESSED),
        ("IMAGE_MALFORMED", compressed_entry(DATA, 100)),
        ("IMAGE_TRUNCATED", compressed_entry(3 * CLUSTER, 100)),
        ("IMAGE_TRUNCATED", compressed_entry(3 * CLUSTER - 50, 100)),
        ("IMAGE_TRUNCATED", (1 << 64) - 1),
    ],
)
def test_a_wrong_entry_is_refused_when_its_cluster_is_read(reason: str, entry: int) -> None:
    assert read_reason(crafted([entry], noise(CLUSTER)), "qcow") == reason


@pytest.mark.parametrize(
    ("reason", "table"),
    [
        ("IMAGE_MALFORMED", CLUSTER + 8),
        ("IMAGE_TRUNCATED", 1 << 40),
        ("IMAGE_TRUNCATED", 3 * CLUSTER - 512),
        ("IMAGE_TRUNCATED", (1 << 64) - 512),
        ("IMAGE_MALFORMED", (1 << 64) - 1),
    ],
)
def test_a_wrong_place_of_a_table_is_refused(reason: str, table: int) -> None:
    file = ONE[:L1_OFFSET] + packed([table], ">") + ONE[L1_OFFSET + 8 :]
    assert read_reason(file, "qcow") == reason


@pytest.mark.parametrize("content", [deflated(text(CLUSTER - 1)), deflated(b""), noise(600), b"\0" * 600])
def test_a_deflate_stream_that_gives_no_whole_cluster_is_refused(content: bytes) -> None:
    file = crafted([compressed_entry(DATA, len(content))], content.ljust(CLUSTER, b"\0"))
    assert read_reason(file, "qcow") == "IMAGE_MALFORMED"


def test_more_output_than_a_cluster_is_never_made() -> None:
    content = deflated(bytes(200 * MIB))[:4000]  # enough for far more than a cluster
    file = crafted([compressed_entry(DATA, len(content))], content)
    blocks = open_image(MemorySource(file), None, LIMIT).blocks
    tracemalloc.start()
    try:
        assert read_range(blocks, 0, CLUSTER) == bytes(CLUSTER)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_one_l2_table_may_be_shared_by_every_entry_of_a_large_l1() -> None:
    fields = Fields(size=1 << 42, l1_offset=3 * CLUSTER)
    file = crafted([DATA], text(CLUSTER), replace(fields, size=4 * CLUSTER))
    file = fields.pack() + file[L1_OFFSET:] + packed([CLUSTER] * (1 << 21), ">")
    blocks = open_image(MemorySource(file), None, LIMIT).blocks
    assert read_range(blocks, (1 << 41) + 5, 100) == text(CLUSTER)[5:105]
    tracemalloc.start()
    try:
        extents = blocks.extents(0, 1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert sum(not extent.is_zero for extent in extents) == 512


def test_a_finely_divided_disk_is_looked_at_in_bounds() -> None:
    tables = (256 << 20) // (512 * 64)
    fields = Fields(size=256 << 20, cluster_bits=9, l2_bits=6, l1_offset=512)
    l2 = 512 + 8 * tables
    head = fields.pack().ljust(512, b"\0") + packed([l2] * tables, ">")
    file = head + packed([l2 + 512, 0] * 32, ">") + noise(512)
    blocks = open_image(MemorySource(file), None, LIMIT).blocks
    extents = blocks.extents(0, 256 << 20)
    check_cover(extents, 0, 256 << 20)
    assert len(extents) <= 1 << 17
    assert not extents[-1].is_zero
    assert read_range(blocks, (256 << 20) - 1024, 1024) == noise(512) + bytes(512)
