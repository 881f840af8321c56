"""The content of an NTFS attribute as a volume: its runs of clusters, with holes, and compressed.

Source: as in ntfs_layout.py.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache

from .lznt1 import decompress
from .ntfs_layout import MAX_CLUSTERS, MAX_RUNS, MAX_STREAM_BYTES, MAX_UNIT_BYTES
from .record import check_power_of_two, check_range
from .volume import GuestUnreadable, Volume

HOLE = -1
MAX_RUN_FIELD_BYTES = 8
CACHED_UNITS = 8


class RunMap:
    """Which clusters of a volume hold the clusters of an attribute."""

    def __init__(self) -> None:
        self.end = 0
        self._starts = array("q")
        self._places = array("q")

    def extend(self, pairs: bytes) -> None:
        """Add the runs of one attribute record. Raises `GuestUnreadable`."""
        place = position = 0
        while position < len(pairs) and pairs[position]:
            count_bytes, place_bytes = pairs[position] & 15, pairs[position] >> 4
            middle = position + 1 + count_bytes
            position = middle + place_bytes
            if (
                not count_bytes
                or max(count_bytes, place_bytes) > MAX_RUN_FIELD_BYTES
                or position > len(pairs)
            ):
                raise GuestUnreadable("a run of clusters that is not one")
            count = int.from_bytes(pairs[middle - count_bytes : middle], "little")
            check_range(count, 1, MAX_CLUSTERS, "length of a run")
            check_range(len(self._starts), 0, MAX_RUNS - 1, "number of runs")
            if place_bytes:
                place += int.from_bytes(pairs[middle:position], "little", signed=True)
                check_range(place, 0, MAX_CLUSTERS, "cluster of a run")
            self._starts.append(self.end)
            self._places.append(place if place_bytes else HOLE)
            self.end = check_range(self.end + count, 1, MAX_CLUSTERS, "clusters of a stream")

    def pieces(self, cluster: int, count: int) -> Iterator[tuple[int, int]]:
        """Where ``count`` clusters from ``cluster`` are: pairs of first cluster (or `HOLE`) and length.

        They end where the runs end.
        """
        end = min(cluster + count, self.end)
        index = bisect_right(self._starts, cluster) - 1
        while cluster < end:
            until = self._starts[index + 1] if index + 1 < len(self._starts) else self.end
            length = min(until, end) - cluster
            place = self._places[index]
            yield (place if place == HOLE else place + cluster - self._starts[index]), length
            cluster, index = cluster + length, index + 1


class RunStream(Volume):
    """Content in clusters of ``volume``. What was never written (beyond ``initialized``) reads as zeros."""

    def __init__(
        self, volume: Volume, runs: RunMap, cluster_bytes: int, size_bytes: int, initialized: int
    ) -> None:
        """Raises `GuestUnreadable`."""
        self.size_bytes = check_range(size_bytes, 0, MAX_STREAM_BYTES, "size of a stream")
        self._volume = volume
        self._runs = runs
        self._cluster_bytes = cluster_bytes
        self._initialized = min(initialized, size_bytes)

    def _read(self, offset: int, length: int) -> bytes:
        wanted = max(min(length, self._initialized - offset), 0)
        return (self._stored(offset, wanted) if wanted else b"").ljust(length, b"\0")

    def _stored(self, offset: int, length: int) -> bytes:
        first, skipped = divmod(offset, self._cluster_bytes)
        count = -(-(skipped + length) // self._cluster_bytes)
        parts: list[bytes] = []
        left = length
        for place, clusters in self._runs.pieces(first, count):
            part = min(clusters * self._cluster_bytes - skipped, left)
            parts.append(
                bytes(part)
                if place == HOLE
                else self._volume.read(place * self._cluster_bytes + skipped, part)
            )
            skipped, left = 0, left - part
        if left:
            raise GuestUnreadable("a stream that is longer than its runs")
        return b"".join(parts)


class CompressedStream(RunStream):
    """Content in units of clusters, each as it is, compressed, or a hole."""

    def __init__(
        self,
        stored: tuple[Volume, RunMap],
        cluster_bytes: int,
        unit_bits: int,
        size_bytes: int,
        initialized: int,
    ) -> None:
        """Raises `GuestUnreadable`."""
        super().__init__(*stored, cluster_bytes, size_bytes, initialized)
        check_range(unit_bits, 1, 8, "log2 of a compression unit")
        self._unit_clusters = 1 << unit_bits
        self._unit_bytes = check_power_of_two(
            cluster_bytes << unit_bits, 1, MAX_UNIT_BYTES, "size of a compression unit"
        )
        self._unit = lru_cache(CACHED_UNITS)(self._read_unit)

    def _stored(self, offset: int, length: int) -> bytes:
        first, skipped = divmod(offset, self._unit_bytes)
        last = (offset + length - 1) // self._unit_bytes
        content = b"".join(self._unit(index) for index in range(first, last + 1))
        return content[skipped : skipped + length]

    def _read_unit(self, index: int) -> bytes:
        pieces = self._runs.pieces(index * self._unit_clusters, self._unit_clusters)
        stored = [(place, count) for place, count in pieces if place != HOLE]
        content = b"".join(
            self._volume.read(place * self._cluster_bytes, count * self._cluster_bytes)
            for place, count in stored
        )
        if content and len(content) < self._unit_bytes:
            content = decompress(content, self._unit_bytes)
        return content.ljust(self._unit_bytes, b"\0")
