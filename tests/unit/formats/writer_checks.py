"""What the tests of writers share: disks of any shape and of nothing, and writers that run in parallel."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hypothesis import strategies as st

from imsd.formats.output import Output
from imsd.formats.source import BlockSource, Extent
from imsd.formats.writer import FormatWriter
from tests.unit.formats.disk_files import CutDisk, noise, text

# Parts of a disk one after another: how long, and what is there.
SHAPES = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 4)), min_size=1, max_size=20)


def disk_of(shape: Iterable[tuple[int, int]]) -> CutDisk:
    """A disk of gaps (0; 4: long ones), text (1), noise (2) and zeros that are stored (3)."""
    pieces, position = [], 0
    for sectors, kind in shape:
        length = sectors * 512 * (8 if kind else 1)
        if kind == 4:
            position += length * 3
        elif kind:
            content = [b"", text(length, position), noise(length, position), bytes(length)][kind]
            pieces.append((position, content))
        position += length
    return CutDisk(position, pieces)


def rendered_in_parallel(writer: FormatWriter) -> list[Sequence[Output]]:
    """The outputs of each piece, of a writer that measured in any order and did everything in threads."""
    tasks = list(writer.measure())
    random.Random(1).shuffle(tasks)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
        return list(pool.map(lambda piece: piece(), writer.pieces()))


class EmptyDisk(BlockSource):
    """A disk of any size without a byte of data."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        return [Extent(start, length, True)]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("nobody should read a disk of zeros")
