"""`blocks-v1`: the pieces in which a disk is scanned must not matter, only its content."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.chunker import BlockMarks, Chunker, scan_blocks

BLOCK = 4096
MASK = 2**64 - 1
K = 0x9E3779B97F4A7C15


def may_end(block: bytes) -> bool:
    """The definition, word by word."""
    words = [int.from_bytes(block[i : i + 8], "little") for i in range(0, BLOCK, 8)]
    xor = total = 0
    for word in words:
        xor ^= word
        total = (total + word) & MASK
    h = xor ^ (total * K & MASK)
    h ^= h >> 29
    h = h * K & MASK
    h ^= h >> 32
    h = h * K & MASK
    return any(words) and h < 2**64 * 4096 // (96 << 10)


def whole_disk_chunks(nonzero: list[bool], cuts: list[bool]) -> list[tuple[int, int]]:
    """The definition, block by block, over a whole disk."""
    chunks = []
    start = last = -1
    for block, is_data in enumerate(nonzero):
        if not is_data:
            continue
        if start >= 0 and (block - last > 8 or block - start >= 128):
            chunks.append((start, last + 1 - start))
            start = -1
        if start < 0:
            start = block
        last = block
        if (cuts[block] and block - start + 1 >= 8) or block - start + 1 == 128:
            chunks.append((start, block + 1 - start))
            start = -1
    if start >= 0:
        chunks.append((start, last + 1 - start))
    return chunks


@st.composite
def disks(draw: st.DrawFn) -> tuple[list[bool], list[bool]]:
    """Runs of data and zeros around the lengths that matter, with frequent or rare cuts."""
    nonzero: list[bool] = []
    lengths = st.sampled_from([1, 2, 6, 7, 8, 9, 10, 30, 100, 120, 127, 128, 129, 136, 300])
    for is_data in draw(st.lists(st.booleans(), max_size=25)):
        nonzero += [is_data] * draw(lengths)
    generator = random.Random(draw(st.integers(0, 2**32)))
    often = draw(st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]))
    return nonzero, [is_data and generator.random() < often for is_data in nonzero]


@given(disks(), st.lists(st.integers(1, 400), min_size=1), st.booleans())
def test_windows_do_not_matter(
    disk: tuple[list[bool], list[bool]], windows: list[int], tell_zeros: bool
) -> None:
    nonzero, cuts = disk
    chunker = Chunker()
    chunks = []
    turn = 0
    while chunker.position < len(nonzero):
        start = chunker.position
        stop = min(start + windows[turn % len(windows)], len(nonzero))
        turn += 1
        if tell_zeros and not any(nonzero[start:stop]):
            chunks += chunker.zeros(stop - start)
        else:
            chunks += chunker.feed(BlockMarks(bytes(nonzero[start:stop]), bytes(cuts[start:stop])))
        assert chunker.position - chunker.boundary < 128
        assert all(first + blocks <= chunker.boundary for first, blocks in chunks)
    chunks += chunker.end()
    assert chunks == whole_disk_chunks(nonzero, cuts)
    assert chunker.boundary == chunker.position == len(nonzero)


@given(disks(), st.data())
def test_a_chunker_started_at_a_boundary_goes_on_in_the_same_way(
    disk: tuple[list[bool], list[bool]], data: st.DataObject
) -> None:
    nonzero, cuts = disk
    first = Chunker()
    stop = data.draw(st.integers(0, len(nonzero)))
    chunks = first.feed(BlockMarks(bytes(nonzero[:stop]), bytes(cuts[:stop])))
    second = Chunker(first.boundary)
    chunks += second.feed(BlockMarks(bytes(nonzero[first.boundary :]), bytes(cuts[first.boundary :])))
    chunks += second.end()
    assert chunks == whole_disk_chunks(nonzero, cuts)


def test_the_marks_are_those_of_the_definition() -> None:
    generator = random.Random(7)
    blocks = [generator.randbytes(BLOCK) for _ in range(300)]
    blocks[5] = bytes(BLOCK)
    blocks[6] = b"\1" + bytes(BLOCK - 1)
    blocks[7] = bytes(BLOCK - 1) + b"\1"
    marks = scan_blocks(memoryview(b"".join(blocks)))
    assert marks.cuts == bytes(may_end(block) for block in blocks)
    assert 4 <= sum(marks.cuts) <= 30
    assert marks.nonzero == bytes(index != 5 for index in range(300))


def test_words_that_cancel_out_are_not_taken_for_zeros() -> None:
    # xor and sum of the block are both 0: only the content tells it from a zero block.
    top = (2**63).to_bytes(8, "little")
    block = top + bytes(2000) + top + bytes(BLOCK - 2016)
    assert scan_blocks(memoryview(block)).nonzero == b"\1"


def test_the_same_marks_come_from_a_read_only_and_an_unaligned_buffer() -> None:
    content = random.Random(1).randbytes(8 * BLOCK)
    shifted = memoryview(bytearray(b"x" + content))[1:]
    assert scan_blocks(shifted) == scan_blocks(memoryview(content))


def test_zero_runs_of_any_length_take_no_time() -> None:
    chunker = Chunker()
    chunker.feed(BlockMarks(b"\1" * 3, bytes(3)))
    assert chunker.zeros(2**51) == [(0, 3)]
    assert chunker.zeros(2**51) == []
    assert chunker.feed(BlockMarks(b"\1", b"\1")) == []
    assert chunker.end() == [(2**52 + 3, 1)]


@pytest.mark.parametrize("gap", [1, 7])
def test_a_short_zero_run_at_the_limit_ends_the_chunk_before_it(gap: int) -> None:
    chunker = Chunker()
    marks = b"\1" * 125 + bytes(gap) + b"\1" * 10
    chunks = chunker.feed(BlockMarks(marks, bytes(len(marks)))) + chunker.end()
    assert chunks == ([(0, 128), (128, 8)] if gap == 1 else [(0, 125), (132, 10)])


def test_random_data_is_cut_at_the_average_the_name_promises() -> None:
    content = random.Random(3).randbytes(32 << 20)
    chunker = Chunker()
    chunks = chunker.feed(scan_blocks(memoryview(content))) + chunker.end()
    average = sum(blocks for _, blocks in chunks) * BLOCK / len(chunks)
    assert 100 << 10 < average < 150 << 10
