"""A file that is cut short says so when its map is looked at, not only when its disk is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.mapped_blocks import ABSENT, MappedBlocks, Places
from imsd.formats.page_cache import FileTable, PageCache
from imsd.formats.refusals import Refusals
from imsd.formats.source import BlockSource, MemorySource
from tests.unit.formats.disk_files import (
    KIB,
    LIMIT,
    MIB,
    mixed_pieces,
    noise,
    read_all,
    read_range,
    sparse_file,
)
from tests.unit.formats.qemu_files import Layout, converted

SIZE = 5 * MIB + 1536

PLAIN = [
    Layout("qcow2"),
    Layout("qcow2", "cluster_size=4k"),
    Layout("qcow2", "extended_l2=on"),
    Layout("qcow"),
    Layout("qed", "cluster_size=4k"),
    Layout("vdi"),
    Layout("vmdk", "subformat=monolithicSparse"),
    Layout("vpc", "subformat=dynamic"),
    Layout("vhdx", "block_size=1M"),
]
PACKED = [
    Layout("qcow2", is_compressed=True),
    Layout("qcow2", "compression_type=zstd", is_compressed=True),
    Layout("qcow", is_compressed=True),
    Layout("vmdk", "subformat=streamOptimized"),
]


def answer(call: Callable[..., object], *arguments: object) -> str:
    try:
        call(*arguments)
    except ImageRefused as refused:
        return refused.reason
    return "whole"


def cut_disks(layout: Layout, tmp_path: Path) -> list[BlockSource]:
    """The disks of a file cut in many places, of those cuts with which it opens."""
    raw = sparse_file(tmp_path / "disk.raw", SIZE, [*mixed_pieces(SIZE), (4 * MIB, noise(SIZE - 4 * MIB, 3))])
    file, chosen = converted(raw, layout).read_bytes(), random.Random(str(layout))
    ends = [len(file) - 512 * number for number in range(10)]
    ends += [chosen.randrange(len(file) // 2, len(file)) for _ in range(20)]
    opened = []
    for end in ends:
        try:
            opened.append(open_image(MemorySource(file[:end]), None, LIMIT).blocks)
        except ImageRefused as refused:
            assert refused.reason == "IMAGE_TRUNCATED"  # noqa: PT017
    assert len(opened) > 20
    return opened


@pytest.mark.parametrize("layout", PLAIN, ids=str)
def test_looking_at_a_cut_file_refuses_what_reading_it_refuses(layout: Layout, tmp_path: Path) -> None:
    chosen, seen = random.Random(1), set()
    for blocks in cut_disks(layout, tmp_path):
        whole = answer(read_all, blocks)
        assert answer(blocks.extents, 0, blocks.size_bytes) == whole
        for _ in range(20):
            start = chosen.randrange(blocks.size_bytes)
            length = chosen.randrange(1, min(300 * KIB, blocks.size_bytes - start) + 1)
            read = answer(read_range, blocks, start, length)
            assert answer(blocks.extents, start, length) == read
            seen |= {whole, read}
    assert seen == {"whole", "IMAGE_TRUNCATED"}


@pytest.mark.parametrize("layout", PACKED, ids=str)
def test_looking_at_a_cut_file_refuses_blocks_that_begin_beyond_its_end(
    layout: Layout, tmp_path: Path
) -> None:
    """Where a packed block ends only unpacking it tells: the one that is cut is found by reading alone."""
    looked, read = [], []
    for blocks in cut_disks(layout, tmp_path):
        read.append(answer(read_all, blocks))
        looked.append(answer(blocks.extents, 0, blocks.size_bytes))
    assert all(was in ("whole", came) for was, came in zip(looked, read, strict=True))
    assert looked.count("IMAGE_TRUNCATED") >= read.count("IMAGE_TRUNCATED") / 2 > 0


class Numbered(MappedBlocks):
    """Blocks of 4 KiB whose places a table of the file has."""

    _refusals = Refusals("test", "repair", "convert")

    def __init__(self, file: bytes, size_bytes: int, data_bytes: int) -> None:
        source = MemorySource(file)
        super().__init__(source, size_bytes, 4 * KIB, data_bytes)
        self._table = FileTable(PageCache(source, "<i8"), 8, 0, -(-size_bytes // (4 * KIB)))

    def _places(self, first: int, count: int) -> Places:
        return self._table.read(first, count).astype("<i8")


@pytest.mark.parametrize(
    "place", [4 * KIB, 8 * KIB, 12 * KIB - 700, 12 * KIB, 12 * KIB + 1, 1 << 62, (1 << 63) - 1]
)
@pytest.mark.parametrize("data_bytes", [8 * KIB, 5 * KIB, 4 * KIB + 700])
@pytest.mark.parametrize("block", [0, 1])
def test_the_last_block_may_lack_what_is_not_of_the_disk(place: int, data_bytes: int, block: int) -> None:
    places = [ABSENT, ABSENT]
    places[block] = place
    table = b"".join(each.to_bytes(8, "little", signed=True) for each in places)
    size = -(-data_bytes // 512) * 512
    blocks = Numbered(table.ljust(12 * KIB, b"x"), size, data_bytes)
    for start, end in (
        (0, size),
        (0, 4 * KIB),
        (4 * KIB, size),
        (4 * KIB + 100, size),
        (0, 100),
        (size - 1, size),
    ):
        read = answer(read_range, blocks, start, end - start)
        assert answer(blocks.extents, start, end - start) == read
