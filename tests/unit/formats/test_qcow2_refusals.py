"""QCOW2 files that are wrong: each is refused for its own reason, and nothing else ever comes out."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
import zstandard

from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_qcow2 import (
    COMPRESSED,
    COPIED,
    ZERO,
    Fields,
    compressed_entry,
    crafted,
    extension,
)
from tests.unit.formats.disk_files import LIMIT, MIB, noise, read_all, read_range, text
from tests.unit.formats.refusal_checks import open_reason, read_reason, refusal

CLUSTER = 1 << 16
DATA = 3 * CLUSTER


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    return packer.compress(content) + packer.flush()


ONE = crafted([DATA | COPIED], text(CLUSTER))


def test_the_crafted_file_itself_is_right() -> None:
    blocks = open_image(MemorySource(ONE), "qcow2", LIMIT).blocks
    assert read_all(blocks) == text(CLUSTER) + bytes(3 * CLUSTER)


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("IMAGE_BACKING_FILE", Fields(backing_offset=200, backing_bytes=11)),
        ("IMAGE_BACKING_FILE", Fields(backing_bytes=11)),
        ("IMAGE_BACKING_FILE", Fields(version=2, backing_offset=200)),
        ("IMAGE_EXTERNAL_DATA_FILE", Fields(incompatible=4)),
        ("IMAGE_EXTERNAL_DATA_FILE", Fields(extensions=extension(0x44415441, b"/etc/shadow"))),
        ("IMAGE_EXTERNAL_DATA_FILE", Fields(version=2, extensions=extension(0x44415441, b"x"))),
        ("IMAGE_ENCRYPTED", Fields(crypt_method=1)),
        ("IMAGE_ENCRYPTED", Fields(crypt_method=2)),
        ("IMAGE_ENCRYPTED", Fields(version=2, crypt_method=1)),
        ("IMAGE_ENCRYPTED", Fields(crypt_method=77)),
        ("IMAGE_ENCRYPTED", Fields(extensions=extension(0x0537BE77, bytes(16)))),
        ("IMAGE_MARKED_CORRUPT", Fields(incompatible=2)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(incompatible=1 << 5)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(incompatible=1 << 63)),
        ("IMAGE_UNKNOWN_FEATURE", Fields(incompatible=8, compression=2)),
        ("IMAGE_MALFORMED", Fields(incompatible=8, compression=0)),
        ("IMAGE_MALFORMED", Fields(compression=1)),
        ("IMAGE_TOO_LARGE", Fields(size=LIMIT + 1)),
        ("IMAGE_TOO_LARGE", Fields(size=(1 << 64) - 1)),
        ("IMAGE_EMPTY", Fields(size=0)),
        ("IMAGE_TOO_MANY_SNAPSHOTS", Fields(snapshots=257)),
        ("IMAGE_TOO_MANY_SNAPSHOTS", Fields(snapshots=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=8)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=22)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=0xFFFF_FFFF)),
        ("IMAGE_MALFORMED", Fields(refcount_order=7)),
        ("IMAGE_MALFORMED", Fields(header_bytes=96)),
        ("IMAGE_MALFORMED", Fields(header_bytes=0xFFFF_FFF8)),
        ("IMAGE_MALFORMED", Fields(extensions=struct.pack(">II", 7, 0xFFFF_FFFF))),
        ("IMAGE_MALFORMED", Fields(l1_entries=0)),
        ("IMAGE_MALFORMED", Fields(size=(1 << 29) + 512)),
        ("IMAGE_MALFORMED", Fields(l1_entries=(4 << 20) + 1)),
        ("IMAGE_MALFORMED", Fields(l1_offset=0)),
        ("IMAGE_MALFORMED", Fields(l1_offset=CLUSTER + 8)),
        ("IMAGE_TRUNCATED", Fields(l1_offset=1 << 40)),
        ("IMAGE_TRUNCATED", Fields(l1_offset=(1 << 64) - CLUSTER)),
        ("IMAGE_TRUNCATED", Fields(size=16 << 40, l1_entries=1 << 15)),
        ("FORMAT_UNSUPPORTED", Fields(version=4)),
        ("FORMAT_UNSUPPORTED", Fields(version=0)),
        ("IMAGE_MALFORMED", Fields(cluster_bits=13, incompatible=16, l1_offset=8192)),
    ],
)
def test_a_wrong_header_is_refused(reason: str, fields: Fields) -> None:
    head = fields.pack()
    assert open_reason(head + ONE[len(head) :], "qcow2") == reason


@pytest.mark.parametrize("length", [8, 71, 72, 103, 104, 111, CLUSTER - 1, CLUSTER, CLUSTER + 7])
def test_a_file_cut_in_header_or_l1_is_refused(length: int) -> None:
    assert open_reason(ONE[:length], "qcow2") in {"IMAGE_TRUNCATED", "IMAGE_MALFORMED"}


@pytest.mark.parametrize(
    "length", [CLUSTER + 8, 2 * CLUSTER, 2 * CLUSTER + 8, DATA - 1, DATA, DATA + 1, 4 * CLUSTER - 1]
)
def test_a_file_cut_in_tables_or_data_is_refused(length: int) -> None:
    assert read_reason(ONE[:length], "qcow2") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("reason", "entries"),
    [
        ("IMAGE_MALFORMED", [DATA + 512 | COPIED]),
        ("IMAGE_TRUNCATED", [4 * CLUSTER | COPIED]),
        ("IMAGE_TRUNCATED", [0x00FF_FFFF_FFFF_0000 | COPIED]),
        ("IMAGE_TRUNCATED", [compressed_entry(5 * CLUSTER, 100)]),
        ("IMAGE_TRUNCATED", [COMPRESSED | (1 << 54) - 1]),
        ("IMAGE_MALFORMED", [compressed_entry(DATA, 100)]),
        ("IMAGE_MALFORMED", [COMPRESSED]),
    ],
)
def test_a_wrong_entry_is_refused_when_its_cluster_is_read(reason: str, entries: list[int]) -> None:
    assert read_reason(crafted(entries, noise(CLUSTER)), "qcow2") == reason


@pytest.mark.parametrize(
    ("reason", "table"),
    [("IMAGE_MALFORMED", 2 * CLUSTER + 512), ("IMAGE_TRUNCATED", 1 << 40), ("IMAGE_TRUNCATED", 4 * CLUSTER)],
)
def test_a_wrong_place_of_a_table_is_refused(reason: str, table: int) -> None:
    assert read_reason(crafted([], text(CLUSTER), table=table), "qcow2") == reason


def test_the_zero_flag_in_version_2_is_refused() -> None:
    blocks = open_image(
        MemorySource(crafted([DATA | ZERO], text(CLUSTER), Fields(version=2))), None, LIMIT
    ).blocks
    assert refusal(lambda: read_range(blocks, 0, CLUSTER)) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(("entry", "bitmap"), [(DATA | COPIED, 1 << 32 | 1), (0, 1)])
def test_a_contradictory_subcluster_is_refused(entry: int, bitmap: int) -> None:
    file = crafted([entry, bitmap], text(CLUSTER), Fields(incompatible=16))
    assert read_reason(file, "qcow2") == "IMAGE_MALFORMED"


def test_a_compressed_cluster_cut_by_the_end_of_the_file_is_truncated() -> None:
    content = deflated(text(CLUSTER))
    file = crafted([compressed_entry(DATA, len(content))], content)
    blocks = open_image(MemorySource(file), None, LIMIT).blocks
    assert read_range(blocks, 0, CLUSTER) == text(CLUSTER)  # the last sector need not be whole
    assert read_reason(file[:-200], "qcow2") == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("content", [deflated(text(CLUSTER - 1)), deflated(b""), noise(600), b"\0" * 600])
def test_a_deflate_stream_that_gives_no_whole_cluster_is_refused(content: bytes) -> None:
    file = crafted([compressed_entry(DATA, len(content))], content.ljust(CLUSTER, b"\0"))
    assert read_reason(file, "qcow2") == "IMAGE_MALFORMED"


ZSTD = Fields(incompatible=8, compression=1)
PACKER = zstandard.ZstdCompressor(level=1, write_checksum=True)


def flipped(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 0x55]) + content[61:]


@pytest.mark.parametrize(
    "content",
    [
        PACKER.compress(text(CLUSTER - 1)),
        PACKER.compress(b""),
        noise(600),
        flipped(PACKER.compress(text(CLUSTER))),
        # frames that claim a terabyte, with and without a window of their own
        b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x03\0\x10A",
        b"\x28\xb5\x2f\xfd\xc0\xa8" + (1 << 40).to_bytes(8, "little") + b"\x03\0\x10A",
        b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x03\0\x10A",
    ],
)
def test_a_zstd_stream_that_gives_no_whole_cluster_is_refused(content: bytes) -> None:
    file = crafted([compressed_entry(DATA, len(content))], content.ljust(CLUSTER, b"\0"), ZSTD)
    assert read_reason(file, "qcow2") == "IMAGE_MALFORMED"


def test_zstd_frames_in_a_row_and_without_content_size_are_read() -> None:
    plain = text(CLUSTER)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    frames = PACKER.compress(plain[:20_480]) + unsized.compress(plain[20_480:60_000])
    frames += PACKER.compress(plain[60_000:])
    file = crafted([compressed_entry(DATA + 77, len(frames))], bytes(77) + frames + noise(2000), ZSTD)
    assert read_all(open_image(MemorySource(file), None, LIMIT).blocks)[:CLUSTER] == plain


@pytest.mark.parametrize("fields", [Fields(), ZSTD])
def test_more_output_than_a_cluster_is_never_made(fields: Fields) -> None:
    plain = bytes(200 * MIB)
    content = PACKER.compress(plain) if fields.compression else deflated(plain)
    content = content[:100_000]  # enough for far more than a cluster
    file = crafted([compressed_entry(DATA, len(content))], content.ljust(2 * CLUSTER, b"\0"), fields)
    blocks = open_image(MemorySource(file), None, LIMIT).blocks
    tracemalloc.start()
    try:
        assert read_range(blocks, 0, CLUSTER) == bytes(CLUSTER)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def test_entries_that_all_share_one_cluster_are_read_from_it_once() -> None:
    content = deflated(text(CLUSTER))
    fields = Fields(size=64 * CLUSTER)
    file = crafted([compressed_entry(DATA, len(content))] * 64, content.ljust(CLUSTER, b"\0"), fields)
    assert read_all(open_image(MemorySource(file), None, LIMIT).blocks) == text(CLUSTER) * 64


def test_tables_that_overlap_the_header_are_read_as_what_they_say() -> None:
    blocks = open_image(MemorySource(crafted([], text(CLUSTER), table=CLUSTER)), None, LIMIT).blocks
    # The L1 table is its own L2 table: its first entry leads to itself, as a cluster.
    assert read_range(blocks, 0, 8) == struct.pack(">Q", CLUSTER)


def test_the_l2_table_may_be_shared_by_every_entry_of_a_huge_l1() -> None:
    fields = Fields(size=1 << 45, l1_entries=1 << 16, l1_offset=CLUSTER * 4)
    file = crafted([DATA | COPIED], text(CLUSTER), fields)
    file += struct.pack(">Q", 2 * CLUSTER) * (1 << 16)
    blocks = open_image(MemorySource(file), None, LIMIT).blocks
    assert read_range(blocks, (1 << 44) + 5, 100) == text(CLUSTER)[5:105]
    assert len(blocks.extents(0, 1 << 36)) == 256
