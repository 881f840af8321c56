"""QED: what only this format has, and files that are wrong."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.formats.detect import open_image
from imsd.formats.reader import OpenedImage
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_qed import ABSENT, ZERO, Fields, crafted, data_offset
from tests.unit.formats.crafted_tables import packed
from tests.unit.formats.disk_files import (
    GIB,
    LIMIT,
    MIB,
    noise,
    qemu_img,
    read_all,
    read_range,
    sparse_file,
    text,
)
from tests.unit.formats.refusal_checks import open_reason, read_reason

CLUSTER = 4096
DATA = 3 * CLUSTER
ONE = crafted([DATA, ZERO, ABSENT], text(CLUSTER))


def test_the_crafted_file_itself_is_right() -> None:
    assert data_offset([2]) == DATA
    opened = open_image(MemorySource(ONE), "qed", LIMIT)
    assert read_all(opened.blocks) == text(CLUSTER) + bytes(3 * CLUSTER)
    assert not opened.findings


def test_a_file_that_was_not_closed_is_read_with_a_finding() -> None:
    opened = open_image(MemorySource(Fields(features=2).pack() + ONE[64:]), None, LIMIT)
    assert [finding.code for finding in opened.findings] == ["QED_NOT_CLOSED"]
    assert read_all(opened.blocks) == text(CLUSTER) + bytes(3 * CLUSTER)


def test_what_may_be_ignored_is(tmp_path: Path, image_of: Callable[[Path], OpenedImage]) -> None:
    fields = Fields(features=4, compatible=(1 << 64) - 1, autoclear=(1 << 64) - 1, backing_offset=64)
    opened = open_image(MemorySource(fields.pack() + ONE[64:]), None, LIMIT)
    assert read_all(opened.blocks) == text(CLUSTER) + bytes(3 * CLUSTER)
    # An overlay that was made to stand alone.
    base, path = tmp_path / "base.raw", tmp_path / "disk.qed"
    qemu_img("create", "-q", "-f", "raw", base, "3M")
    qemu_img("create", "-q", "-f", "qed", "-b", base, "-F", "raw", path)
    assert open_reason(path.read_bytes(), "qed") == "IMAGE_BACKING_FILE"
    qemu_img("rebase", "-u", "-f", "qed", "-b", "", path)
    assert read_all(image_of(path).blocks) == bytes(3 * MIB)


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("IMAGE_BACKING_FILE", Fields(features=1)),
        ("IMAGE_BACKING_FILE", Fields(features=5, backing_offset=64, backing_bytes=11)),
        ("IMAGE_BACKING_FILE", Fields(backing_bytes=11)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(features=8)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(features=1 << 63)),
        ("IMAGE_EMPTY", Fields(size=0)),
        ("IMAGE_TOO_LARGE", Fields(size=LIMIT + 512)),
        ("IMAGE_TOO_LARGE", Fields(size=(1 << 64) - 512)),
        ("IMAGE_MALFORMED", Fields(size=4 * CLUSTER + 1)),
        ("IMAGE_MALFORMED", Fields(size=(1 << 30) + 512)),
        ("IMAGE_MALFORMED", Fields(cluster_bytes=0)),
        ("IMAGE_MALFORMED", Fields(cluster_bytes=2048)),
        ("IMAGE_MALFORMED", Fields(cluster_bytes=3 * 4096)),
        ("IMAGE_MALFORMED", Fields(cluster_bytes=128 << 20)),
        ("IMAGE_MALFORMED", Fields(cluster_bytes=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(table_clusters=0)),
        ("IMAGE_MALFORMED", Fields(table_clusters=3)),
        ("IMAGE_MALFORMED", Fields(table_clusters=32)),
        ("IMAGE_MALFORMED", Fields(table_clusters=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(header_clusters=0)),
        ("IMAGE_MALFORMED", Fields(header_clusters=2)),
        ("IMAGE_MALFORMED", Fields(header_clusters=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(l1_offset=0)),
        ("IMAGE_MALFORMED", Fields(l1_offset=4096 + 8)),
        ("IMAGE_TRUNCATED", Fields(l1_offset=1 << 40)),
        ("IMAGE_TRUNCATED", Fields(l1_offset=(1 << 64) - 4096)),
        ("IMAGE_TRUNCATED", Fields(table_clusters=16)),
        ("IMAGE_TRUNCATED", Fields(cluster_bytes=64 << 20, l1_offset=64 << 20)),
    ],
)
def test_a_wrong_header_is_refused(reason: str, fields: Fields) -> None:
    head = fields.pack()
    assert open_reason(head + ONE[len(head) :], "qed") == reason


@pytest.mark.parametrize("length", [4, 63, 64, CLUSTER - 1, CLUSTER, CLUSTER + 8, 2 * CLUSTER - 1])
def test_a_file_cut_in_header_or_l1_is_refused(length: int) -> None:
    assert open_reason(ONE[:length], "qed") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("length", [2 * CLUSTER, 2 * CLUSTER + 8, DATA - 1, DATA, DATA + 1, 4 * CLUSTER - 1])
def test_a_file_cut_in_tables_or_data_is_refused(length: int) -> None:
    assert read_reason(ONE[:length], "qed") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("IMAGE_MALFORMED", 2),
        ("IMAGE_MALFORMED", DATA + 512),
        ("IMAGE_MALFORMED", (1 << 64) - 1),
        ("IMAGE_TRUNCATED", 4 * CLUSTER),
        ("IMAGE_TRUNCATED", (1 << 63) - CLUSTER),
        ("IMAGE_TRUNCATED", (1 << 64) - CLUSTER),
    ],
)
def test_a_wrong_entry_is_refused_when_its_cluster_is_read(reason: str, entry: int) -> None:
    assert read_reason(crafted([entry], noise(CLUSTER)), "qed") == reason


def test_a_cluster_inside_a_long_header_is_refused() -> None:
    fields = Fields(header_clusters=2, l1_offset=2 * CLUSTER)
    file = fields.pack().ljust(2 * CLUSTER, b"\0") + packed([3 * CLUSTER], "<").ljust(CLUSTER, b"\0")
    assert read_reason(file + packed([CLUSTER], "<").ljust(CLUSTER, b"\0"), "qed") == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("reason", "table"),
    [
        ("IMAGE_MALFORMED", 1),
        ("IMAGE_MALFORMED", 2 * CLUSTER + 8),
        ("IMAGE_TRUNCATED", 1 << 40),
        ("IMAGE_TRUNCATED", 4 * CLUSTER),
        ("IMAGE_TRUNCATED", (1 << 64) - CLUSTER),
    ],
)
def test_a_wrong_place_of_a_table_is_refused(reason: str, table: int) -> None:
    assert read_reason(crafted([DATA], text(CLUSTER), table=table), "qed") == reason


def test_tables_of_a_gibibyte_are_read_in_pages(
    tmp_path: Path, image_of: Callable[[Path], OpenedImage]
) -> None:
    fields = Fields(cluster_bytes=64 * MIB, table_clusters=16, l1_offset=64 * MIB, size=64 << 40)
    l2, data = 64 * MIB + GIB, 64 * MIB + 2 * GIB
    last = (64 << 40) // (64 * MIB) - 1
    pieces = [
        (0, fields.pack()),
        (64 * MIB, packed([l2], "<")),
        (l2 + 8 * last, packed([data], "<")),
        (data + 64 * MIB - 512, b"\7" * 512),
    ]
    path = sparse_file(tmp_path / "disk.qed", data + 64 * MIB, pieces)
    tracemalloc.start()
    try:
        blocks = image_of(path).blocks
        assert read_range(blocks, (64 << 40) - 1024, 1024) == bytes(512) + b"\7" * 512
        extents = blocks.extents(0, 64 << 40)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()
    assert [(extent.length, extent.is_zero) for extent in extents] == [
        ((64 << 40) - 64 * MIB, True),
        (64 * MIB, False),
    ]
