"""ZVHD and ZVHD2 decoded while they arrive: the same disk and the same verdict as at random, or a refusal."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.contract import ImageRefused
from imsd.formats import zvhd2_decoder
from imsd.formats.output import PlainOutput, Zeros
from imsd.formats.registry import DECODERS, READERS
from imsd.formats.source import MemorySource
from imsd.formats.zvhd2_decoder import Zvhd2Decoder
from tests.unit.formats.crafted_zvhd import (
    BLOCK,
    PAGE,
    SOUND_FILES,
    ZVHD_HEADER,
    Fields,
    decoded,
    disk_of,
    record,
    refusal,
    with_checksums,
    zvhd2,
    zvhd2_of,
    zvhd_of,
)
from tests.unit.formats.disk_files import LIMIT, read_all, text

NAMES = sorted(SOUND_FILES)

# What is read whole.
LIMIT_READ = 1 << 28

VERDICTS = {
    "ok",
    "FORMAT_UNSUPPORTED",
    "IMAGE_EMPTY",
    "IMAGE_ENCRYPTED",
    "IMAGE_MALFORMED",
    "IMAGE_TOO_LARGE",
    "IMAGE_TRUNCATED",
    "IMAGE_UNKNOWN_FEATURE",
}


def sound(name: str, seed: int) -> bytes:
    return SOUND_FILES[name](random.Random(seed))


def streamed(name: str, file: bytes, chosen: random.Random) -> tuple[str, bytes]:
    """(verdict, disk) of a file that arrives in pieces."""
    longest = chosen.choice([700, 100_000, 4 << 20])
    resumes = chosen.random() < 0.5
    try:
        content, _ = decoded(
            name, file, lambda: chosen.randrange(1, longest), resumes=resumes, limit=LIMIT_READ
        )
    except ImageRefused as refused:
        return refused.reason, b""
    return "ok", content


def at_random(name: str, file: bytes) -> tuple[str, bytes]:
    try:
        return "ok", read_all(READERS[name].open(MemorySource(file), LIMIT_READ).blocks)
    except ImageRefused as refused:
        return refused.reason, b""


@settings(max_examples=40)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 1 << 30))
def test_both_ways_give_the_same_disk(name: str, seed: int) -> None:
    file = sound(name, seed)
    verdict, content = streamed(name, file, random.Random(seed))
    assert (verdict, content) == at_random(name, file)
    assert verdict == "ok"


@settings(max_examples=40)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 8), cut=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_anywhere_is_refused_as_such(name: str, seed: int, cut: float) -> None:
    file = sound(name, seed)
    file = file[: int(len(file) * cut)]
    assert streamed(name, file, random.Random(seed))[0] == "IMAGE_TRUNCATED"
    assert at_random(name, file)[0] == "IMAGE_TRUNCATED"


# In the first part of a page and of a record stands most of what matters, and so it does at the end.
PLACES = st.tuples(st.integers(0, 40), st.one_of(st.integers(0, 180), st.integers(0, PAGE - 1)))
CHANGES = st.tuples(st.booleans(), PLACES, st.binary(min_size=1, max_size=8))


@settings(max_examples=150)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 12),
    changes=st.lists(CHANGES, min_size=1, max_size=4),
    has_checksums=st.booleans(),
)
def test_a_damaged_file_is_refused_or_read_alike_both_ways(
    name: str, seed: int, changes: list[tuple[bool, tuple[int, int], bytes]], has_checksums: bool
) -> None:
    file = bytearray(sound(name, seed))
    pages = len(file) // PAGE
    for is_near_end, (page, offset), content in changes:
        page = pages - 1 - page % pages if is_near_end else page % pages
        at = page * PAGE + offset
        file[at : at + len(content)] = content[: len(file) - at]
    damaged = with_checksums(file) if has_checksums else bytes(file)
    verdict, content = streamed(name, damaged, random.Random(seed))
    assert verdict in VERDICTS
    other, other_content = at_random(name, damaged)
    assert other in VERDICTS
    if verdict == "ok":
        assert (other, other_content) == (verdict, content)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_taken_before_a_unit_is_there(name: str) -> None:
    decoder = DECODERS[name].begin(LIMIT)
    file = sound(name, 1)
    for length in (0, 1, PAGE - 1):
        assert decoder.step(memoryview(file)[:length]).consumed == 0
    assert decoder.state() == b""
    assert decoder.step(memoryview(file)).consumed == PAGE == decoder.position
    with pytest.raises(ImageRefused):
        decoder.finish(len(file))


@pytest.mark.parametrize("name", NAMES)
def test_runs_of_zeros_are_told_as_such(name: str) -> None:
    size = 1 << 40
    blocks = {5: text(5000), 9: text(5000)}
    file = (
        zvhd_of(blocks, replace(ZVHD_HEADER, size=size))
        if name == "zvhd"
        else zvhd2_of(blocks, Fields(size=size))
    )
    decoder = DECODERS[name].begin(LIMIT)
    outputs: list[PlainOutput] = []
    while decoder.position < len(file):
        outputs += decoder.step(memoryview(file)[decoder.position :]).outputs
    assert decoder.finish(len(file)).size_bytes == size
    zeros = [output.length for output in outputs if isinstance(output, Zeros)]
    assert max(zeros) == size - 10 * BLOCK
    assert len(outputs) < 10
    assert sum(len(output) for output in outputs if not isinstance(output, Zeros)) == 2 * (64 << 10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", [b"x", bytes(7), bytes(40), b"\xff" * 64, b"\xff" * 40_000])
def test_a_state_that_is_none_is_an_error(name: str, state: bytes) -> None:
    with pytest.raises(ValueError, match="no state"):
        DECODERS[name].resume(state, LIMIT)


@pytest.mark.parametrize("covers_zero_blocks", [0, 1])
def test_tables_of_several_segments_are_compared_with_the_records(
    covers_zero_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Decoding that many blocks would take a minute.
    monkeypatch.setattr(zvhd2_decoder, "expand", lambda *_: b"")
    monkeypatch.setattr(Zvhd2Decoder, "_inside", lambda *_: ())
    count = 32768 + 7
    content = record(0, b"a")
    fields = Fields(size=2 * count * BLOCK, covers_zero_blocks=covers_zero_blocks)
    records = [(2 * n, content[:16] + struct.pack("<I", 2 * n) + content[20:]) for n in range(count)]
    file = bytearray(zvhd2(records, fields))
    decoder = DECODERS["zvhd2"].begin(LIMIT)
    tables = (count + 2) * PAGE
    while decoder.position < tables:
        decoder.step(memoryview(file)[decoder.position :][: 2 * PAGE])
    state = decoder.state()

    def rest() -> int:
        resumed = DECODERS["zvhd2"].resume(state, LIMIT)
        while resumed.position < len(file):
            resumed.step(memoryview(file)[resumed.position :])
        return resumed.finish(len(file)).size_bytes

    assert rest() == fields.size
    index_end = len(file) - PAGE - 3 * 4096
    last_entry = tables + 16 * (count - 1) * (2 if covers_zero_blocks else 1)
    for place in (last_entry, last_entry + 8, last_entry + 14, tables, index_end + 8192, index_end + 5000):
        file[place] ^= 1
        assert refusal(rest) == "IMAGE_MALFORMED"
        file[place] ^= 1
    assert rest() == fields.size


def test_the_disk_of_two_blocks_is_what_was_put_in() -> None:
    blocks = {0: text(BLOCK), 1: text(700)}
    for name, file in (
        ("zvhd", zvhd_of(blocks, replace(ZVHD_HEADER, size=BLOCK + 1024))),
        ("zvhd2", zvhd2_of(blocks, Fields(size=BLOCK + 1024))),
    ):
        assert decoded(name, file, lambda: 999_999)[0] == disk_of(blocks, BLOCK + 1024)
