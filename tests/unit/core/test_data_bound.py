"""A small file does not keep a job at work for days."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imsd.contract import ImageRefused
from imsd.core.data_bound import BoundedDisk
from imsd.formats.source import BlockSource, Extent
from imsd.formats.unwrap import FREE_BYTES, MAX_RATIO

GIB = 1 << 30


class AllData(BlockSource):
    """A disk that says that all of it is data, but for every second GiB."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        return [Extent(start, length, is_zero=start // GIB % 2 == 1)]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = b"x" * len(buffer)


@pytest.mark.parametrize("file_bytes", [1 << 20, 16 << 20])
def test_more_data_than_the_file_can_hold_is_refused(file_bytes: int) -> None:
    most = max(FREE_BYTES, MAX_RATIO * file_bytes)
    bounded = BoundedDisk(AllData(1 << 40), file_bytes)
    for start in range(0, 2 * most, GIB):
        assert bounded.extents(start, GIB)
    with pytest.raises(ImageRefused) as refused:
        bounded.extents(2 * most, GIB)
    assert refused.value.reason == "IMAGE_EXPANDS_TOO_MUCH"


def test_what_is_asked_again_counts_once() -> None:
    bounded = BoundedDisk(AllData(1 << 40), 1 << 20)
    for start, length in ((0, GIB), (0, GIB), (GIB // 2, GIB // 2), (GIB // 2, 2 * GIB), (2 * GIB, GIB)):
        assert bounded.extents(start, length)
    assert bounded.data_bytes == 3 * GIB


def test_a_disk_of_little_data_is_read_whole() -> None:
    bounded = BoundedDisk(AllData(2 * FREE_BYTES), 1 << 20)
    extents = [bounded.extents(start, GIB) for start in range(0, bounded.size_bytes, GIB)]
    assert sum(extent.length for found in extents for extent in found) == 2 * FREE_BYTES
    buffer = bytearray(4)
    bounded.read_into(0, memoryview(buffer))
    assert buffer == b"xxxx"
