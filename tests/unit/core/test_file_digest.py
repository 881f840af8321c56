"""All digests of a file come of one pass over its bytes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import ByteRange
from imsd.core.file_digest import WINDOW_BYTES, PartDigest, digest_of
from imsd.formats.source import MemorySource

FILE = random.Random(1).randbytes(2 * WINDOW_BYTES) + bytes(WINDOW_BYTES) + b"the end of it"


class CountedSource(MemorySource):
    """Knows its hole, and counts what is read."""

    def __init__(self) -> None:
        super().__init__(FILE)
        self.read_bytes = 0

    def _read(self, offset: int, length: int) -> memoryview:
        self.read_bytes += length
        return super()._read(offset, length)

    def data_ranges(self) -> Iterator[ByteRange]:
        yield ByteRange(0, 2 * WINDOW_BYTES)
        yield ByteRange(3 * WINDOW_BYTES, len(FILE) - 3 * WINDOW_BYTES)


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(2)
    yield pool
    pool.close()


def tree_digest() -> str:
    hasher = TreeHasher()
    hasher.update(FILE)
    return hasher.digest()


async def test_parts_take_their_bytes_while_the_tree_is_hashed(pool: DecodePool) -> None:
    source, done = CountedSource(), [0]
    places = [
        (0, len(FILE)),
        (0, 5),
        (5, 5),
        (WINDOW_BYTES - 1, WINDOW_BYTES + 1),
        (WINDOW_BYTES, 2 * WINDOW_BYTES),
        (100, 3 * WINDOW_BYTES + 3),
        (len(FILE) - 1, len(FILE)),
    ]
    parts = [PartDigest(start, end, hashlib.sha256()) for start, end in places]
    assert await digest_of(pool, source, done.append, parts) == tree_digest()
    expected = [hashlib.sha256(FILE[start:end]).hexdigest() for start, end in places]
    assert [part.hasher.hexdigest() for part in parts] == expected
    assert source.read_bytes == len(FILE)
    assert done == sorted(done)
    assert done[-1] == len(FILE)


async def test_a_hole_is_not_read_for_the_tree_alone(pool: DecodePool) -> None:
    source = CountedSource()
    assert await digest_of(pool, source, lambda done: None) == tree_digest()
    assert source.read_bytes == len(FILE) - WINDOW_BYTES
