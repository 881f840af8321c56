"""VMDK decoded in one pass: the disk that a reader at random access sees, or a refusal."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.output import Zeros
from imsd.formats.registry import DECODERS, can_decode
from imsd.formats.source import MemorySource
from imsd.formats.vmdk_decoder import MAX_STATE_BYTES, VmdkDecoder, is_stream_optimized
from tests.unit.formats.crafted_vmdk import (
    DIRECTORY,
    SECTOR,
    STREAM,
    STREAM_FLAGS,
    TABLE,
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
    LIMIT,
    MIB,
    mixed_pieces,
    noise,
    qemu_img,
    read_all,
    sparse_file,
    text,
)
from tests.unit.formats.stream_feeding import decoded
from tests.unit.formats.vmdk_refusal import decode_reason

# Three tables: the second holds nothing.
WIDE = replace(STREAM, grain=8, capacity=3 * 512 * 8)
GRAIN = 8 * SECTOR
GRAINS = {0: text(GRAIN), 3: noise(GRAIN), 511: text(GRAIN, 1), 1100: text(GRAIN, 2)}


def disk_of(grains: dict[int, bytes], fields: Fields) -> bytes:
    disk = bytearray(fields.capacity * SECTOR)
    for number, content in grains.items():
        disk[number * GRAIN : (number + 1) * GRAIN] = content
    return bytes(disk)


def all_tables_at_end(grains: dict[int, bytes], fields: Fields) -> bytes:
    return stream_with_tables_at_end(grains, fields, empty_too=True)


def tables_first_with_end(grains: dict[int, bytes], fields: Fields) -> bytes:
    return stream_with_tables_first(grains, fields, has_end=True)


LAYOUTS = [
    stream,
    stream_with_tables_at_end,
    all_tables_at_end,
    stream_with_tables_first,
    tables_first_with_end,
]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("write", LAYOUTS)
def test_every_order_of_tables_is_decoded(
    write: Callable[[dict[int, bytes], Fields], bytes], version: int
) -> None:
    fields = replace(WIDE, version=version)
    file = write(GRAINS, fields)
    assert decoded(VmdkDecoder, file)[0] == disk_of(GRAINS, fields)
    assert read_all(open_image(MemorySource(file), "vmdk", LIMIT).blocks) == disk_of(GRAINS, fields)


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_disk_of_zeros_is_decoded(write: Callable[[dict[int, bytes], Fields], bytes]) -> None:
    content, disk = decoded(VmdkDecoder, write({}, WIDE))
    assert content == bytes(WIDE.capacity * SECTOR)
    assert disk.zeros_at_end == disk.size_bytes


def test_the_directory_may_be_where_the_header_says_at_the_end() -> None:
    place = StreamFile(WIDE).grain(0, text(GRAIN)).table(0).sector + 1
    file = StreamFile(replace(WIDE, directory=place)).grain(0, text(GRAIN)).table(0).directory()
    assert file.directory_sector == place
    for content in (bytes(file.content), file.end()):
        assert decoded(VmdkDecoder, content)[0].startswith(text(GRAIN))
        assert read_all(open_image(MemorySource(content), "vmdk", LIMIT).blocks).startswith(text(GRAIN))


def test_tables_without_grains_may_be_there_up_to_the_last_that_has_some() -> None:
    file = StreamFile(WIDE).table(0).grain(600, text(GRAIN)).table(1).close()
    assert decoded(VmdkDecoder, file)[0] == disk_of({600: text(GRAIN)}, WIDE)


def test_some_tables_without_grains_and_not_others_are_refused() -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).table(0).table(2).close()
    assert decode_reason(file) == "IMAGE_MALFORMED"


def test_a_grain_that_its_table_marks_zero_is_zero() -> None:
    fields = replace(WIDE, version=2, flags=STREAM_FLAGS | ZERO_GRAINS)
    file = StreamFile(fields).grain(0, text(GRAIN))
    file.entries[0][5] = 1
    assert decoded(VmdkDecoder, file.table(0).close())[0] == disk_of({0: text(GRAIN)}, fields)


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_a_file_may_come_in_any_pieces_and_be_taken_up_again_anywhere(seed: int) -> None:
    chosen = random.Random(seed)
    file = sound_file(chosen)
    if is_stream_optimized(file):
        content, _ = decoded(VmdkDecoder, file, chosen, resumes=0.5)
        assert content == read_all(open_image(MemorySource(file), "vmdk", LIMIT).blocks)
    else:
        with pytest.raises(ImageRefused):
            decoded(VmdkDecoder, file, chosen)


def test_what_qemu_writes_may_be_taken_up_again_anywhere(tmp_path: Path) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 40 * MIB + 512, mixed_pieces(40 * MIB + 512))
    path = tmp_path / "disk.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, path)
    assert decoded(VmdkDecoder, path.read_bytes(), random.Random(7), resumes=0.7)[0] == raw.read_bytes()


def test_one_step_takes_many_grains() -> None:
    length = 128 * SECTOR
    fields = replace(STREAM, capacity=200 * 128)
    file = memoryview(stream({number: text(length, number) for number in range(100)}, fields))
    decoder = VmdkDecoder.begin(LIMIT)
    steps = []
    while decoder.position < len(file):
        steps.append(decoder.step(file[decoder.position :]))
    given = [sum(len(output) for output in step.outputs if not isinstance(output, Zeros)) for step in steps]
    assert [length for length in given if length] == [64 * length, 36 * length]


def test_the_state_is_small() -> None:
    decoder = VmdkDecoder.begin(LIMIT)
    grains = {0: text(128 * SECTOR), 1 << 29: noise(128 * SECTOR)}
    file = memoryview(stream(grains, replace(STREAM, capacity=(64 << 40) // SECTOR)))
    while decoder.position < len(file):
        decoder.step(file[decoder.position : decoder.position + MIB])
        assert len(decoder.state()) <= MAX_STATE_BYTES
    assert decoder.finish(len(file)).size_bytes == 64 << 40


@pytest.mark.parametrize(
    "state", [b"", b"[]", b"{}", b"null", b'{"header": {"x": 1}, "state": {}}', b"\xff", b'{"header": 1}']
)
def test_what_is_no_state_is_not_taken_for_one(state: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        VmdkDecoder.resume(state, LIMIT)


def test_a_state_with_a_phase_that_is_not_known_is_refused() -> None:
    state = json.loads(VmdkDecoder.begin(LIMIT).state())
    state["state"]["phase"] = "dreaming"
    with pytest.raises(ValueError, match="dreaming"):
        VmdkDecoder.resume(json.dumps(state).encode(), LIMIT)


def test_the_decoder_is_entered_for_files_it_can_decode() -> None:
    assert DECODERS["vmdk"] is VmdkDecoder
    assert can_decode("vmdk", stream({})[:1024])
    assert not can_decode("vmdk", sparse({})[:1024])
    with pytest.raises(ImageRefused) as refused:
        decoded(VmdkDecoder, sparse({}))
    assert refused.value.reason == "FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("number", [0, 1])
def test_grains_out_of_order_are_refused(number: int) -> None:
    file = StreamFile(WIDE).grain(1, text(GRAIN)).grain(number, text(GRAIN, 1)).table(0).close()
    assert decode_reason(file) == "FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_file_that_is_cut_anywhere_is_refused(
    write: Callable[[dict[int, bytes], Fields], bytes],
) -> None:
    file = write({0: text(GRAIN), 1: text(GRAIN, 1)}, WIDE)
    cuts = {*range(0, len(file) - 1, SECTOR), *range(7, len(file), 4999), len(file) - 1}
    whole = len(file.rstrip(b"\0"))
    for length in sorted(cuts):
        if write is stream_with_tables_first and length >= whole:
            continue  # only padding is lost
        if write is tables_first_with_end and whole <= length <= len(file) - SECTOR:
            continue  # only the mark of the end is lost, which QEMU does not write
        assert decode_reason(file[:length]) in ("IMAGE_TRUNCATED", "IMAGE_MALFORMED")


def changed(file: bytes, at: int, value: int) -> bytes:
    content = bytearray(file)
    struct.pack_into("<I", content, at, value)
    return bytes(content)


def entry_places(file: bytes, fields: Fields) -> Sequence[int]:
    """Where in a stream the entries of tables and of the directory are that are not 0."""
    blocks = open_image(MemorySource(file), "vmdk", LIMIT).blocks
    header = blocks._header  # type: ignore[attr-defined]
    directory = header.directory_sector * SECTOR
    count = -(-fields.capacity // (fields.grain * 512))
    tables = struct.unpack_from(f"<{count}I", file, directory)
    places = [directory + 4 * index for index, table in enumerate(tables) if table]
    for table in filter(None, tables):
        entries = struct.unpack_from("<512I", file, table * SECTOR)
        places += [table * SECTOR + 4 * index for index, entry in enumerate(entries) if entry]
    return places


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_table_that_does_not_tell_of_the_grains_is_refused(
    write: Callable[[dict[int, bytes], Fields], bytes],
) -> None:
    file = write(GRAINS, WIDE)
    places = entry_places(file, WIDE)
    assert len(places) in (6, 7)
    for at in places:
        right = struct.unpack_from("<I", file, at)[0]
        for value in (0, right + 1, right - 1, 0xFFFF_FFFF):
            assert decode_reason(changed(file, at, value)) in ("IMAGE_MALFORMED", "FORMAT_UNSUPPORTED")
        for other in places:
            if other != at:
                swapped = changed(file, at, struct.unpack_from("<I", file, other)[0])
                assert decode_reason(changed(swapped, other, right)) in (
                    "IMAGE_MALFORMED",
                    "FORMAT_UNSUPPORTED",
                )
    for at in (places[-1] + 4, places[0] + 4):
        value = struct.unpack_from("<I", file, places[-1])[0]
        assert decode_reason(changed(file, at, value)) in ("IMAGE_MALFORMED", "FORMAT_UNSUPPORTED")


def test_tables_that_change_places_are_refused() -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).grain(600, text(GRAIN)).table(1).table(0)
    assert decode_reason(file.close()) == "IMAGE_MALFORMED"


def test_a_table_that_the_directory_does_not_name_is_refused() -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).table(0)
    file.marker(4, TABLE).add(bytes(2048))
    assert decode_reason(file.close()) == "IMAGE_MALFORMED"


def test_grains_without_a_table_are_refused() -> None:
    assert decode_reason(StreamFile(WIDE).grain(0, text(GRAIN)).close()) == "IMAGE_MALFORMED"


def test_a_table_without_grains_is_refused() -> None:
    file = StreamFile(WIDE)
    file.entries[0] = [200] + [0] * 511
    assert decode_reason(file.table(0).close()) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("sectors", "kind"), [(3, TABLE), (5, TABLE), (1 << 40, TABLE), (2, DIRECTORY), (0, 3)]
)
def test_a_marker_with_another_length_is_refused(sectors: int, kind: int) -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).marker(sectors, kind).add(bytes(4096))
    assert decode_reason(bytes(file.content)) == "IMAGE_MALFORMED"


@pytest.mark.parametrize("kind", [4, 5, 0xFFFF_FFFF])
def test_a_marker_of_another_kind_is_refused(kind: int) -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).marker(1, kind).add(bytes(4096))
    assert decode_reason(bytes(file.content)) == "IMAGE_MALFORMED"


def test_a_second_directory_is_refused() -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).table(0).directory().directory()
    assert decode_reason(file.footer().end()) == "IMAGE_MALFORMED"


def test_a_directory_elsewhere_than_the_footer_says_is_refused() -> None:
    file = StreamFile(WIDE).grain(0, text(GRAIN)).table(0).directory()
    content = file.footer(replace(WIDE, directory=file.directory_sector + 1)).end()
    assert decode_reason(content) == "IMAGE_MALFORMED"


def test_an_end_without_a_footer_is_refused() -> None:
    assert (
        decode_reason(StreamFile(WIDE).grain(0, text(GRAIN)).table(0).directory().end()) == "IMAGE_MALFORMED"
    )


@pytest.mark.parametrize("more", [bytes(512), b"x", stream(GRAINS, WIDE)])
def test_nothing_may_follow_a_footer(more: bytes) -> None:
    assert decode_reason(stream(GRAINS, WIDE) + more) == "IMAGE_MALFORMED"


def test_only_zeros_may_follow_the_end_of_a_file_without_footer() -> None:
    file = tables_first_with_end(GRAINS, WIDE)
    assert decoded(VmdkDecoder, file + bytes(10_000))[0] == disk_of(GRAINS, WIDE)
    assert decode_reason(file + bytes(5000) + b"x") == "IMAGE_MALFORMED"


def test_tables_scattered_before_the_grains_are_refused() -> None:
    file = stream_with_tables_first(GRAINS, WIDE)
    first = struct.unpack_from("<I", file, 21 * SECTOR)[0]
    for index, value in ((0, 0), (0, 21), (1, first), (2, first + 9)):
        assert decode_reason(changed(file, 21 * SECTOR + 4 * index, value)) == "FORMAT_UNSUPPORTED"


def test_tables_that_reach_into_the_grains_are_refused() -> None:
    file = bytearray(stream_with_tables_first(GRAINS, WIDE))
    for index in range(3):
        struct.pack_into("<I", file, 21 * SECTOR + 4 * index, 126 + 4 * index)
    assert decode_reason(bytes(file)) == "IMAGE_MALFORMED"


def test_the_disk_may_not_be_larger_than_is_allowed() -> None:
    with pytest.raises(ImageRefused) as refused:
        VmdkDecoder.begin(MIB).step(memoryview(stream(GRAINS, WIDE)))
    assert refused.value.reason == "IMAGE_TOO_LARGE"


def test_a_grain_of_too_few_bytes_is_refused() -> None:
    file = StreamFile(WIDE)
    file.entries[0] = [file.sector] + [0] * 511
    short = zlib.compress(text(GRAIN - 512))
    file.add(struct.pack("<QI", 0, len(short)) + short)
    assert decode_reason(file.table(0).close()) == "IMAGE_MALFORMED"
