"""A part of a file as a file of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imsd.contract import ByteRange, ImageRefused
from imsd.formats.source import MemorySource, PartSource
from tests.unit.formats.disk_files import LateSource, with_fetches

FILE = bytes(100) + b"inside" + b"x" * 500


class HoledSource(MemorySource):
    """Has data in these places only."""

    def data_ranges(self) -> Iterator[ByteRange]:
        yield from (ByteRange(0, 10), ByteRange(20, 10), ByteRange(40, 20), ByteRange(70, 5))


def test_a_part_ends_where_it_ends() -> None:
    part = PartSource(MemorySource(FILE), 100, 6)
    buffer = bytearray(6)
    part.read_into(0, memoryview(buffer))
    assert (part.size_bytes, bytes(part.read(0, 6)), bytes(buffer)) == (6, b"inside", b"inside")
    assert list(part.data_ranges()) == [ByteRange(0, 6)]


@pytest.mark.parametrize(("offset", "length"), [(1, 6), (6, 1), (-1, 2)])
def test_what_is_beyond_a_part_is_not_there(offset: int, length: int) -> None:
    part = PartSource(MemorySource(FILE), 100, 6)
    for read in (part.read, lambda offset, length: part.read_into(offset, memoryview(bytearray(length)))):
        with pytest.raises(ImageRefused) as refused:
            read(offset, length)
        assert refused.value.reason == "IMAGE_TRUNCATED"


@pytest.mark.parametrize(
    ("start", "length", "data"),
    [
        (0, 100, [(0, 10), (20, 10), (40, 20), (70, 5)]),
        (0, 45, [(0, 10), (20, 10), (40, 5)]),
        (25, 20, [(0, 5), (15, 5)]),
        (30, 10, []),
        (45, 10, [(0, 10)]),
    ],
)
def test_the_holes_of_a_part_are_those_of_the_file(
    start: int, length: int, data: list[tuple[int, int]]
) -> None:
    part = PartSource(HoledSource(bytes(100)), start, length)
    assert [(found.offset, found.length) for found in part.data_ranges()] == data


def test_what_a_part_needs_is_asked_of_the_file() -> None:
    source = LateSource(FILE)
    part = PartSource(source, 100, 6)

    def ends() -> bytes:
        part.require([ByteRange(0, 1), ByteRange(5, 1)])
        return bytes(part.read(0, 1)) + bytes(part.read(5, 1))

    assert with_fetches(source, ends) == (b"ie", 1)
