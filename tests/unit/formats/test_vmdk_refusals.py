"""VMDK files that are wrong: each is refused for its own reason, and nothing else ever comes out."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from imsd.formats.vmdk_decoder import VmdkDecoder, is_stream_optimized
from tests.unit.formats.crafted_vmdk import (
    AT_END,
    COMPRESSED,
    GRAIN,
    MARKERS,
    NEWLINE,
    SECTOR,
    STREAM,
    STREAM_FLAGS,
    Fields,
    StreamFile,
    description,
    padded,
    sound_file,
    sparse,
    stream,
    stream_with_tables_first,
)
from tests.unit.formats.disk_files import LIMIT, MIB, read_all, text
from tests.unit.formats.stream_feeding import decoded
from tests.unit.formats.vmdk_refusal import decode_reason, open_reason, read_reason

ONE = {1: text(GRAIN)}


HEADERS = [
    ("FORMAT_UNSUPPORTED", {"version": 0}),
    ("FORMAT_UNSUPPORTED", {"version": 4}),
    ("IMAGE_MALFORMED", {"newlines": b"\n\n\r\n"}),
    ("IMAGE_MALFORMED", {"newlines": b"\r\n \r"}),
    ("IMAGE_UNKNOWN_FEATURE", {"flags": 1 << 18}),
    ("IMAGE_UNKNOWN_FEATURE", {"flags": 1 << 31}),
    ("IMAGE_UNKNOWN_FEATURE", {"compression": 2}),
    ("IMAGE_MALFORMED", {"flags": NEWLINE, "compression": 1}),
    ("IMAGE_MALFORMED", {"flags": STREAM_FLAGS, "compression": 0}),
    ("FORMAT_UNSUPPORTED", {"flags": COMPRESSED, "compression": 1}),
    ("FORMAT_UNSUPPORTED", {"flags": MARKERS, "compression": 0}),
    ("IMAGE_EMPTY", {"capacity": 0}),
    ("IMAGE_TOO_LARGE", {"capacity": (64 << 40) // SECTOR + 1}),
    ("IMAGE_TOO_LARGE", {"capacity": (1 << 64) - 1}),
    ("IMAGE_MALFORMED", {"grain": 0}),
    ("IMAGE_MALFORMED", {"grain": 4}),
    ("IMAGE_MALFORMED", {"grain": 100}),
    ("IMAGE_MALFORMED", {"grain": 4096}),
    ("IMAGE_MALFORMED", {"grain": 1 << 63}),
    ("IMAGE_MALFORMED", {"entries": 0}),
    ("IMAGE_MALFORMED", {"entries": 511}),
    ("IMAGE_MALFORMED", {"entries": 0xFFFF_FFFF}),
    ("IMAGE_EXTERNAL_DATA_FILE", {"descriptor": 0}),
    ("IMAGE_EXTERNAL_DATA_FILE", {"descriptor_sectors": 0}),
    ("IMAGE_MALFORMED", {"descriptor": 2049}),
    ("IMAGE_MALFORMED", {"descriptor": (1 << 64) - 1}),
    ("IMAGE_MALFORMED", {"descriptor_sectors": 2049}),
    ("IMAGE_MALFORMED", {"overhead": 1 << 32}),
    ("IMAGE_MALFORMED", {"directory": 0}),
    ("IMAGE_MALFORMED", {"directory": 1 << 32}),
    ("IMAGE_MALFORMED", {"directory": AT_END - 1}),
    ("IMAGE_MALFORMED", {"grain": 8, "capacity": (64 << 40) // SECTOR}),  # a directory of 128 MiB
]


@pytest.mark.parametrize(("reason", "changes"), HEADERS)
def test_a_header_that_is_wrong_is_refused(reason: str, changes: dict[str, int | bytes]) -> None:
    good = sparse(ONE)
    file = replace(Fields(), **changes).pack() + good[SECTOR:]  # type: ignore[arg-type]
    assert open_reason(file) == reason


@pytest.mark.parametrize(("reason", "changes"), HEADERS)
def test_a_header_that_is_wrong_is_refused_in_one_pass_too(
    reason: str, changes: dict[str, int | bytes]
) -> None:
    file = replace(STREAM, **changes).pack() + stream(ONE)[SECTOR:]  # type: ignore[arg-type]
    found = decode_reason(file)
    # What is right with a sparse file is a contradiction or of another kind with a stream.
    assert found == reason or {"flags", "compression"} & set(changes)


def test_a_directory_at_the_end_is_only_for_streams() -> None:
    assert open_reason(Fields(directory=AT_END).pack() + sparse(ONE)[SECTOR:]) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"capacity": 5 * 128},
        {"grain": 64},
        {"descriptor": 2},
        {"descriptor_sectors": 19},
        {"overhead": 127},
        {"flags": STREAM_FLAGS | 4},
        {"directory": AT_END},
        {"magic": b"COWD"},
        {"flags": NEWLINE, "compression": 0},
    ],
)
def test_a_footer_that_disagrees_with_the_header_is_refused(changes: dict[str, int]) -> None:
    file = StreamFile().grain(0, text(GRAIN)).table(0).directory()
    right = replace(STREAM, directory=file.directory_sector)
    content = file.footer(replace(right, **changes)).end()  # type: ignore[arg-type]
    assert open_reason(content) == "IMAGE_MALFORMED"
    assert decode_reason(content) == "IMAGE_MALFORMED"


def test_a_footer_must_have_its_marks() -> None:
    good = stream(ONE)
    for at in (
        len(good) - 3 * SECTOR,
        len(good) - 3 * SECTOR + 8,
        len(good) - 3 * SECTOR + 12,
        len(good) - SECTOR,
    ):
        bad = bytearray(good)
        bad[at] ^= 0x55
        assert open_reason(bytes(bad)) in ("IMAGE_MALFORMED", "IMAGE_UNKNOWN_FEATURE")
        assert decode_reason(bytes(bad)) in ("IMAGE_MALFORMED", "IMAGE_TRUNCATED", "FORMAT_UNSUPPORTED")


@pytest.mark.parametrize("from_end", [3 * SECTOR - 16, 2 * SECTOR + 1, SECTOR - 16, 1])
def test_the_marks_of_a_footer_have_zeros_behind_them(from_end: int) -> None:
    bad = bytearray(stream(ONE))
    bad[-from_end] = 1
    assert open_reason(bytes(bad)) == "IMAGE_MALFORMED"
    assert decode_reason(bytes(bad)) == "IMAGE_MALFORMED"


def entry_of(file: bytes, sector: int) -> int:
    """Where in ``file`` the entry is that says ``sector``."""
    return file.index(struct.pack("<I", sector), 21 * SECTOR)


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("IMAGE_MALFORMED", 1),
        ("IMAGE_MALFORMED", 22),
        ("IMAGE_MALFORMED", 127),
        ("IMAGE_TRUNCATED", 129),
        ("IMAGE_TRUNCATED", 100_000),
        ("IMAGE_TRUNCATED", 0xFFFF_FFFF),
    ],
)
def test_a_grain_where_none_can_be_is_refused(reason: str, entry: int) -> None:
    assert read_reason(sparse({0: text(GRAIN), 1: entry, 3: 0})) == reason


@pytest.mark.parametrize("table", [10_000, 0xFFFF_FFFF])
def test_a_table_beyond_the_end_is_refused(table: int) -> None:
    file = bytearray(sparse(ONE))
    struct.pack_into("<I", file, 21 * SECTOR, table)
    assert read_reason(bytes(file)) == "IMAGE_TRUNCATED"


def test_a_directory_beyond_the_end_is_refused() -> None:
    assert open_reason(Fields(directory=100_000).pack() + sparse(ONE)[SECTOR:]) == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    "length", [511, 512, 600, 21 * SECTOR, 21 * SECTOR + 3, 30 * SECTOR, 128 * SECTOR - 1]
)
def test_a_sparse_file_that_is_cut_in_its_head_is_refused(length: int) -> None:
    assert open_reason(sparse(ONE)[:length]) == "IMAGE_TRUNCATED"


def test_a_sparse_file_that_is_cut_in_its_data_is_refused() -> None:
    assert read_reason(sparse(ONE)[:-1]) == "IMAGE_TRUNCATED"


def grain_file(content: bytes, lba: int = 128, size: int | None = None) -> bytes:
    """A stream whose one grain, the second, is behind a marker that may lie."""
    file = StreamFile()
    file.entries[0] = [0, file.sector] + [0] * 510
    file.add(struct.pack("<QI", lba, len(content) if size is None else size) + content)
    return file.table(0).close()


PACKED = zlib.compress(text(GRAIN))


@pytest.mark.parametrize(
    "file",
    [
        grain_file(PACKED, lba=0),
        grain_file(PACKED, lba=129),
        grain_file(PACKED, lba=512),
        grain_file(PACKED, lba=1 << 63),
        grain_file(PACKED, size=2 * GRAIN + 1),
        grain_file(PACKED, size=0xFFFF_FFFF),
        grain_file(PACKED[:-1]),
        grain_file(PACKED[:-4] + b"\0\0\0\0"),
        grain_file(PACKED[:100]),
        grain_file(b"\x78\x01" + bytes(100)),
        grain_file(zlib.compress(text(GRAIN - 1))),
        grain_file(zlib.compress(b"")),
        grain_file(text(5000)),
        grain_file(PACKED[2:-4]),  # without the frame of RFC 1950
    ],
)
def test_a_compressed_grain_that_is_wrong_is_refused(file: bytes) -> None:
    assert read_reason(file) == "IMAGE_MALFORMED"
    assert decode_reason(file) in ("IMAGE_MALFORMED", "FORMAT_UNSUPPORTED")


def test_a_compressed_grain_without_bytes_is_refused() -> None:
    assert read_reason(grain_file(b"")) == "IMAGE_MALFORMED"
    assert decode_reason(grain_file(b"")) == "IMAGE_MALFORMED"


@pytest.mark.parametrize("kept", [*range(1, 12), 12, 13, 1000])
def test_cve_2026_2243_a_marker_at_the_very_end_of_the_file(kept: int) -> None:
    """QEMU up to 10.2.1 took a compressed grain to be 12 bytes longer than what it had read."""
    file = stream_with_tables_first(ONE)
    cut = file[: 128 * SECTOR + kept]
    assert read_reason(cut) == "IMAGE_TRUNCATED"
    assert decode_reason(cut) == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("size", [2 * GRAIN - 11, 2 * GRAIN - 1, 2 * GRAIN])
def test_cve_2026_2243_a_marker_that_claims_all_of_the_buffer(size: int) -> None:
    marker = struct.pack("<QI", 128, size)
    file = bytearray(stream_with_tables_first(ONE))
    file[128 * SECTOR : 128 * SECTOR + 12] = marker
    assert read_reason(bytes(file)) == "IMAGE_TRUNCATED"
    assert decode_reason(bytes(file)) == "IMAGE_TRUNCATED"


def test_a_bomb_gives_no_more_than_a_grain() -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 2 * GRAIN
    file = grain_file(bomb)
    tracemalloc.start()
    try:
        content = read_all(open_image(MemorySource(file), "vmdk", LIMIT).blocks)
        decoded(VmdkDecoder, file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert content == bytes(4 * GRAIN)
    assert peak < 8 * MIB


def test_a_file_that_claims_much_costs_little() -> None:
    capacity = (64 << 40) // SECTOR
    fields = Fields(capacity=capacity)
    head = padded(fields.pack() + description(capacity), 21)
    file = head + bytes(capacity // 128 // 512 * 4)
    tracemalloc.start()
    try:
        blocks = open_image(MemorySource(file), "vmdk", LIMIT).blocks
        extents = blocks.extents(0, blocks.size_bytes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert blocks.size_bytes == 64 << 40
    assert extents[0].is_zero
    assert peak < 32 * MIB


def outcome(call: Callable[[], bytes]) -> bytes | str:
    try:
        return call()
    except ImageRefused as refused:
        return refused.reason if refused.hint else "no hint"


@settings(max_examples=150)
@given(
    seed=st.integers(0, 60),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_any_bytes_give_a_disk_or_a_refusal(seed: int, changes: list[tuple[float, int]], kept: float) -> None:
    file = bytearray(sound_file(random.Random(seed)))
    for where, change in changes:
        # Two thirds of the changes hit the header, the descriptor and the tables.
        at = int(where * 1.5 * min(len(file), 20_000)) if where < 0.66 else int(where * len(file))
        file[min(at, len(file) - 1)] ^= change
    content = bytes(file[: int(kept * len(file))])
    read = outcome(lambda: read_all(open_image(MemorySource(content), None, LIMIT).blocks))
    assert isinstance(read, bytes) or read.startswith(("IMAGE_", "FORMAT_"))
    if is_stream_optimized(content):
        streamed = outcome(lambda: decoded(VmdkDecoder, content)[0])
        assert isinstance(streamed, str) or streamed == read
