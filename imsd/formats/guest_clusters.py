"""A disk cut into clusters of one size, for writers: which hold data, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .source import BlockSource

Mask = npt.NDArray[np.bool_]


class GuestClusters:
    """Thread-safe."""

    def __init__(self, blocks: BlockSource, cluster_bytes: int) -> None:
        self._blocks = blocks
        self._cluster_bytes = cluster_bytes

    def plain(self, first: int, count: int) -> memoryview:
        """Clusters as they are, the last one padded with zeros. Raises `NeedBytes`."""
        start = first * self._cluster_bytes
        buffer = memoryview(bytearray(count * self._cluster_bytes))
        self._blocks.read_into(start, buffer[: min(len(buffer), self._blocks.size_bytes - start)])
        return buffer

    def has_data(self, first: int, count: int) -> Mask:
        """Which clusters are not known to be zero. Raises `NeedBytes`."""
        start = first * self._cluster_bytes
        end = min(start + count * self._cluster_bytes, self._blocks.size_bytes)
        found = np.zeros(count, np.bool_)
        for extent in self._blocks.extents(start, end - start):
            if not extent.is_zero:
                low = (extent.start - start) // self._cluster_bytes
                found[low : -(-(extent.end - start) // self._cluster_bytes)] = True
        return found

    def each(self, first: int, is_wanted: Mask) -> Iterator[tuple[int, memoryview]]:
        """(index, bytes) of the wanted ones; all are read at once, so that what lacks is asked for once."""
        wanted = np.flatnonzero(is_wanted).tolist()
        if not wanted:
            return
        content = self.plain(first + wanted[0], wanted[-1] - wanted[0] + 1)
        for index in wanted:
            start = (index - wanted[0]) * self._cluster_bytes
            yield index, content[start : start + self._cluster_bytes]

    def data(self, first: int, count: int) -> Iterator[tuple[int, memoryview]]:
        """(index, bytes) of those that hold other bytes than zeros. Raises `NeedBytes`."""
        for index, cluster in self.each(first, self.has_data(first, count)):
            if np.frombuffer(cluster, np.uint64).any():
                yield index, cluster
