"""VDI: what only this format has, and files that are wrong."""

from __future__ import annotations

import pytest

from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_vdi import ABSENT, BLOCK, DATA, ZERO, Fields, crafted
from tests.unit.formats.disk_files import LIMIT, read_all, read_range, text
from tests.unit.formats.refusal_checks import open_reason, read_reason

ENTRIES = [ABSENT, 0, ZERO, ABSENT]
CONTENT = text(BLOCK)
ONE = crafted(ENTRIES, CONTENT)


def test_the_crafted_file_itself_is_right() -> None:
    opened = open_image(MemorySource(ONE), "vdi", LIMIT)
    assert read_all(opened.blocks) == bytes(BLOCK) + CONTENT + bytes(2 * BLOCK)
    assert not opened.findings


@pytest.mark.parametrize("block_bytes", [4096, BLOCK // 2, 2 * BLOCK, 64 * BLOCK, 256 * BLOCK])
def test_blocks_of_other_sizes_are_read(block_bytes: int) -> None:
    fields = Fields(block_bytes=block_bytes, size=3 * block_bytes + 1024, data_offset=8192)
    file = crafted([ABSENT, ABSENT, ZERO, 0], CONTENT, fields)  # the file has as much as the disk needs
    blocks = open_image(MemorySource(file), "vdi", LIMIT).blocks
    assert read_range(blocks, 3 * block_bytes - 512, 1536) == bytes(512) + CONTENT[:1024]


def test_a_map_and_header_longer_than_needed_are_read() -> None:
    fields = Fields(header_bytes=0x190, map_offset=1024, data_offset=1 << 20, blocks=9)
    file = crafted([*ENTRIES, *[ABSENT] * 5], CONTENT, fields)
    assert read_range(open_image(MemorySource(file), "vdi", LIMIT).blocks, BLOCK, BLOCK) == CONTENT


def test_blocks_of_the_disk_that_name_the_same_block_all_read_as_it() -> None:
    blocks = open_image(MemorySource(crafted([0, 0, ABSENT, 0], CONTENT)), "vdi", LIMIT).blocks
    assert read_all(blocks) == CONTENT * 2 + bytes(BLOCK) + CONTENT


def test_a_disk_that_ends_inside_a_sector_goes_on_with_zeros_and_a_finding() -> None:
    file = crafted([0], b"\5" * BLOCK, Fields(size=1000))
    opened = open_image(MemorySource(file), None, LIMIT)
    assert opened.blocks.size_bytes == 1024
    assert read_range(opened.blocks, 0, 1024) == b"\5" * 1000 + bytes(24)
    assert [finding.code for finding in opened.findings] == ["VDI_SIZE_ROUNDED_UP"]


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("IMAGE_BACKING_FILE", Fields(kind=3)),
        ("IMAGE_BACKING_FILE", Fields(kind=4)),
        ("IMAGE_BACKING_FILE", Fields(link=b"\0" * 15 + b"\1")),
        ("IMAGE_BACKING_FILE", Fields(parent_change=b"\1")),
        ("IMAGE_UNKNOWN_FEATURE", Fields(kind=0)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(kind=5)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(block_extra_bytes=512)),
        ("FORMAT_UNSUPPORTED", Fields(version=0x00001)),
        ("FORMAT_UNSUPPORTED", Fields(version=0x10002)),
        ("IMAGE_EMPTY", Fields(size=0)),
        ("IMAGE_TOO_LARGE", Fields(size=LIMIT + 1)),
        ("IMAGE_TOO_LARGE", Fields(size=(1 << 64) - 1)),
        ("IMAGE_MALFORMED", Fields(block_bytes=0)),
        ("IMAGE_MALFORMED", Fields(block_bytes=2048)),
        ("IMAGE_MALFORMED", Fields(block_bytes=3 * BLOCK)),
        ("IMAGE_MALFORMED", Fields(block_bytes=512 * BLOCK)),
        ("IMAGE_MALFORMED", Fields(block_bytes=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(sector_bytes=0)),
        ("IMAGE_MALFORMED", Fields(sector_bytes=4096)),
        ("IMAGE_MALFORMED", Fields(blocks=3)),
        ("IMAGE_MALFORMED", Fields(blocks=(64 << 20) + 1)),
        ("IMAGE_MALFORMED", Fields(blocks=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(size=4 * BLOCK + 1)),
        ("IMAGE_MALFORMED", Fields(header_bytes=0x17F)),
        ("IMAGE_MALFORMED", Fields(header_bytes=0x200)),
        ("IMAGE_MALFORMED", Fields(header_bytes=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(map_offset=0)),
        ("IMAGE_MALFORMED", Fields(map_offset=513)),
        ("IMAGE_MALFORMED", Fields(map_offset=DATA)),
        ("IMAGE_MALFORMED", Fields(map_offset=0xFFFF_FE00)),
        ("IMAGE_MALFORMED", Fields(data_offset=0)),
        ("IMAGE_MALFORMED", Fields(data_offset=512)),
        ("IMAGE_MALFORMED", Fields(data_offset=DATA + 8)),
        ("IMAGE_MALFORMED", Fields(blocks=1024)),
        ("IMAGE_TRUNCATED", Fields(data_offset=0xFFFF_FE00)),
        ("IMAGE_TRUNCATED", Fields(size=64 << 40, blocks=64 << 20, data_offset=512 << 20)),
    ],
)
def test_a_wrong_header_is_refused(reason: str, fields: Fields) -> None:
    head = fields.pack()
    assert open_reason(head + ONE[len(head) :], "vdi") == reason


@pytest.mark.parametrize("length", [68, 0x180, 511, 512, 519, DATA - 1])
def test_a_file_cut_in_header_or_map_is_refused(length: int) -> None:
    assert open_reason(ONE[:length], "vdi") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("length", [DATA, DATA + 1, DATA + BLOCK - 1])
def test_a_file_cut_in_its_data_is_refused(length: int) -> None:
    assert read_reason(ONE[:length], "vdi") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("IMAGE_TRUNCATED", 1),
        ("IMAGE_TRUNCATED", 3),
        ("IMAGE_MALFORMED", 4),
        ("IMAGE_MALFORMED", 0xFFFF_FFFD),
        ("IMAGE_MALFORMED", 0x8000_0000),
    ],
)
def test_a_wrong_entry_is_refused_when_its_block_is_read(reason: str, entry: int) -> None:
    assert read_reason(crafted([entry, 0, ABSENT, ABSENT], CONTENT), "vdi") == reason
