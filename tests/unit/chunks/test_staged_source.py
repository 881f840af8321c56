"""The file of an upload, from its parts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.staged_source import StagedPart, StagedSource, staging_blob, staging_prefix
from imsd.contract import ByteRange, DataLoss, blob_id
from imsd.formats.source import ByteSource, NeedBytes
from imsd.testing.faulty_store import Call, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.chunks.stored_disk import put

UPLOAD = "8f0e2a54-0b5d-4e6e-9d4c-0d1f2e3a4b5c"


async def stage(store: MemoryStore, lengths: list[tuple[int, bool]]) -> tuple[list[StagedPart], bytes]:
    """Parts of the given (length, is zero), and the whole file."""
    parts, content = [], b""
    for number, (length, is_zero) in enumerate(lengths):
        piece = bytes(length) if is_zero else random.Random(number).randbytes(length)
        parts.append(StagedPart(number, len(content), length, is_zero))
        content += piece
        if not is_zero:
            await put(store, staging_blob(UPLOAD, number), piece)
    return parts, content


def read(source: ByteSource, offset: int, length: int) -> bytes:
    source.require([ByteRange(offset, length)])
    return bytes(source.read(offset, length))


def test_the_blob_of_a_part_is_a_blob_id_and_sorts_by_number() -> None:
    assert blob_id(staging_blob(UPLOAD, 7)) == f"staging/{UPLOAD}/00000007"
    assert staging_blob(UPLOAD, 9) < staging_blob(UPLOAD, 10)
    assert staging_blob(UPLOAD, 1).startswith(staging_prefix(UPLOAD))


async def test_zero_parts_are_at_hand_and_never_loaded() -> None:
    store = FaultyStore(MemoryStore())
    source = StagedSource(store, UPLOAD, [StagedPart(0, 0, 1 << 40, True)])
    assert source.size_bytes == 1 << 40
    assert read(source, 1 << 39, 70_000) == bytes(70_000)
    assert read(source, 5, (1 << 20) + 1) == bytes((1 << 20) + 1)
    async with source.fetching([ByteRange(0, 1 << 40)]):
        assert source.bytes_at_hand == 0
    assert store.calls[Call.READ] == 0


async def test_only_the_bytes_that_are_wanted_are_fetched() -> None:
    store = MemoryStore()
    parts, content = await stage(store, [(100_000, False), (50_000, True), (100_000, False)])
    source = StagedSource(store, UPLOAD, parts)
    with pytest.raises(NeedBytes) as caught:
        source.require([ByteRange(99_000, 52_000)])
    assert caught.value.ranges == [ByteRange(99_000, 1_000), ByteRange(150_000, 1_000)]
    async with source.fetching(caught.value.ranges):
        assert source.bytes_at_hand == 2_000
        assert source.read(99_000, 52_000) == content[99_000:151_000]


async def test_a_small_run_of_zeros_between_two_parts_does_not_split_the_load() -> None:
    store = MemoryStore()
    parts, content = await stage(store, [(1_000, False), (500, True), (1_000, False)])
    source = StagedSource(store, UPLOAD, parts)
    async with source.fetching([ByteRange(0, 2_500)]):
        assert source.read(0, 2_500) == content


async def test_data_ranges_are_what_was_staged_as_bytes(pool: DecodePool) -> None:
    store = MemoryStore()
    lengths = [(10, True), (20, False), (30, False), (40, True), (50, False), (60, True)]
    parts, _ = await stage(store, lengths)
    source = StagedSource(store, UPLOAD, reversed(parts))
    assert list(source.data_ranges()) == [ByteRange(10, 50), ByteRange(100, 50)]
    assert list(StagedSource(store, UPLOAD, []).data_ranges()) == []


@pytest.mark.parametrize("parts", [[(5, 10)], [(0, 10), (11, 10)], [(0, 10), (9, 10)], [(0, 0)]])
def test_parts_that_do_not_make_a_file_are_refused(parts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="part"):
        StagedSource(
            MemoryStore(), UPLOAD, [StagedPart(n, at, length, False) for n, (at, length) in enumerate(parts)]
        )


async def test_a_missing_or_short_part_is_lost_data_that_names_its_blob(pool: DecodePool) -> None:
    store = MemoryStore()
    parts, _ = await stage(store, [(1_000, False), (1_000, False)])
    source = StagedSource(store, UPLOAD, parts)
    await put(store, staging_blob(UPLOAD, 0), b"short")
    with pytest.raises(DataLoss, match=staging_blob(UPLOAD, 0)):
        await pool.run(read, source, 500, 1_000)
    await store.delete(staging_blob(UPLOAD, 0))
    with pytest.raises(DataLoss, match=staging_blob(UPLOAD, 0)):
        await pool.run(read, source, 0, 10)
    assert await pool.run(read, source, 1_000, 1_000) == random.Random(1).randbytes(1_000)


@given(
    st.lists(st.tuples(st.integers(1, 6_000), st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
)
async def test_any_read_of_any_parts_is_the_file(
    lengths: list[tuple[int, bool]], places: list[tuple[float, float]]
) -> None:
    store = MemoryStore()
    parts, content = await stage(store, lengths)
    source = StagedSource(store, UPLOAD, parts)
    ranges = []
    for at, share in places:
        offset = int(at * (len(content) - 1))
        ranges.append(ByteRange(offset, max(1, int(share * (len(content) - offset)))))
    async with source.fetching(ranges):
        source.require(ranges)
        for wanted in ranges:
            assert source.read(wanted.offset, wanted.length) == content[wanted.offset : wanted.end]
            buffer = bytearray(b"\xaa" * wanted.length)
            source.read_into(wanted.offset, memoryview(buffer))
            assert buffer == content[wanted.offset : wanted.end]
    assert source.bytes_at_hand == 0
