"""How guest clusters become clusters of a QCOW2 file: left plain, compressed, or put together from frames.

An encoder is asked twice: for the sizes of clusters, before anything is written, and then for their
bytes, which must be as long as said. Encoders are thread-safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from imsd.contract import DataLoss

from .cluster_codec import stored_frame, stored_frame_bytes, zero_frame, zstd_frame
from .data_windows import SCAN_BYTES, DataWindows
from .guest_clusters import GuestClusters
from .output import Output
from .qcow2_plan import ClusterSizes, Sizes
from .source import BlockSource, Frame, FrameSource
from .writer import Spool


class ClusterEncoder(GuestClusters, ABC):
    """``needs_bytes``: sizes cannot be told from the disk's extents alone."""

    needs_bytes: bool = True

    @abstractmethod
    def sizes(self, first: int, count: int) -> Sizes:
        """Bytes of each cluster in the file; see `ClusterSizes`. Raises `NeedBytes`, `DataLoss`."""

    @abstractmethod
    def render(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        """The bytes of each compressed one of the clusters from ``first`` on. Raises `NeedBytes`."""


def measuring(
    encoder: ClusterEncoder, sizes: ClusterSizes, windows: DataWindows
) -> Iterator[Callable[[], None]]:
    """Tasks that find out ``sizes``, in any order and in parallel; see `FormatWriter.measure`."""

    def measure(start: int, length: int) -> None:
        first = start // sizes.cluster_bytes
        sizes.put(first, encoder.sizes(first, -(-length // sizes.cluster_bytes)))

    if encoder.needs_bytes:
        yield from windows.scans()
        for start, length in windows.data():
            yield partial(measure, start, length)
    else:
        for start in range(0, sizes.size_bytes, SCAN_BYTES):
            yield partial(measure, start, min(SCAN_BYTES, sizes.size_bytes - start))


class PlainEncoder(ClusterEncoder):
    """Every cluster that is not known to be zero lies plain in the file."""

    needs_bytes = False

    def sizes(self, first: int, count: int) -> Sizes:
        return self.has_data(first, count).astype(np.uint32) * np.uint32(self._cluster_bytes)

    def render(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        return iter(())


class CompressingEncoder(ClusterEncoder):
    """Each cluster is compressed as one piece; one that does not shrink stays plain.

    ``compress``: ways to do it, the first of which is used. It may give another length the second time:
    a cluster that became shorter is followed by zeros, which no reader looks at, for one that became
    longer there are ``spare_bytes``, and if that is not enough the other ways are tried.

    ``spool``: keeps the clusters of the first time, so that there is no second one.
    """

    def __init__(
        self,
        blocks: BlockSource,
        cluster_bytes: int,
        *compress: Callable[[memoryview], bytes],
        spare_bytes: int = 0,
        spool: Spool | None = None,
    ) -> None:
        super().__init__(blocks, cluster_bytes)
        self._compress = compress
        self._spare_bytes = spare_bytes
        self._spool = spool

    def sizes(self, first: int, count: int) -> Sizes:
        found = np.zeros(count, np.uint32)
        contents: list[bytes] = []
        for index, cluster in self.data(first, count):
            content = self._compress[0](cluster)
            size = min(len(content) + self._spare_bytes, self._cluster_bytes)
            found[index] = size
            if self._spool is not None and size < self._cluster_bytes:
                contents.append(content.ljust(size, b"\0"))
        if self._spool is not None and contents:
            self._spool.keep(first, contents)
        return found

    def render(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        is_compressed = (sizes > 0) & (sizes < self._cluster_bytes)
        if self._spool is not None and (content := self._spool.kept(first)) is not None:
            yield from _cut(content, sizes[is_compressed].tolist())
            return
        for index, cluster in self.each(first, is_compressed):
            yield self._fitted(cluster, int(sizes[index]))

    def _fitted(self, cluster: memoryview, size: int) -> Sequence[Output]:
        for compress in self._compress:
            content = compress(cluster)
            if len(content) <= size:
                return [content.ljust(size, b"\0")]
        raise DataLoss("the disk changed while it was written")


@dataclass(frozen=True, slots=True)
class _Part:
    """``length`` bytes of a cluster from ``start`` of the disk: of piece number ``piece``, or zeros."""

    start: int
    length: int
    piece: int | None


class VerbatimEncoder(ClusterEncoder):
    """A cluster is a row of zstd frames, those of the store wherever one lies wholly inside.

    Frames that cross the border of a cluster are decoded and compressed again in two parts, zeros
    between pieces are constant frames, pieces without frame are stored in one as they are.
    """

    def __init__(self, blocks: FrameSource, cluster_bytes: int) -> None:
        super().__init__(blocks, cluster_bytes)
        self._frames = blocks

    def sizes(self, first: int, count: int) -> Sizes:
        start, end = self._range(first, count)
        table = self._frames.frame_table(start, end - start)
        pieces = [(at, length) for at, length, _ in table]
        cut = [(at, length) for at, length, stored in table if stored and self._crosses(at, length)]
        self._frames.require(cut)
        crossing = {at: self._plain_bytes(at, length) for at, length in cut}
        found = np.zeros(count, np.uint32)
        for index, parts in enumerate(self._clusters(first, count, pieces)):
            total = 0
            for part in parts:
                if part.piece is None:
                    total += len(zero_frame(part.length))
                    continue
                at, length, stored = table[part.piece]
                if not stored:
                    total += stored_frame_bytes(part.length)
                elif part.length == length:
                    total += stored
                else:
                    total += len(_part_frame(crossing[at], at, part))
            if any(part.piece is not None for part in parts):
                found[index] = min(total, self._cluster_bytes)
        return found

    def render(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        wanted = np.flatnonzero((sizes > 0) & (sizes < self._cluster_bytes)).tolist()
        start, end = self._range(first + wanted[0], wanted[-1] - wanted[0] + 1)
        frames = self._frames.frames(start, end - start)
        clusters = self._clusters(first, len(sizes), [(frame.start, frame.length) for frame in frames])
        plain: dict[int, memoryview] = {}
        for index, parts in enumerate(clusters):
            if index in wanted:
                yield [
                    zero_frame(part.length)
                    if part.piece is None
                    else self._rendered(frames[part.piece], part, plain)
                    for part in parts
                ]

    def _rendered(self, frame: Frame, part: _Part, plain: dict[int, memoryview]) -> Output:
        if frame.frame is None:
            return stored_frame(self._plain_bytes(part.start, part.length))
        if part.length == frame.length:
            return frame.frame
        if frame.start not in plain:
            plain[frame.start] = self._plain_bytes(frame.start, frame.length)
        return _part_frame(plain[frame.start], frame.start, part)

    def _crosses(self, start: int, length: int) -> bool:
        return start // self._cluster_bytes != (start + length - 1) // self._cluster_bytes

    def _plain_bytes(self, start: int, length: int) -> memoryview:
        content = memoryview(bytearray(length))
        self._blocks.read_into(start, content)
        return content

    def _clusters(self, first: int, count: int, pieces: Sequence[tuple[int, int]]) -> Iterator[list[_Part]]:
        """The parts that make up each cluster, from ``pieces`` (start, length) in order."""
        number = 0
        for cluster in range(first, first + count):
            start = cluster * self._cluster_bytes
            end = start + self._cluster_bytes
            parts: list[_Part] = []
            while number < len(pieces):
                at, length = pieces[number]
                low, high = max(at, start), min(at + length, end)
                if low >= end:
                    break
                if low < high:
                    if start < low:
                        parts.append(_Part(start, low - start, None))
                    parts.append(_Part(low, high - low, number))
                    start = high
                if at + length > end:
                    break
                number += 1
            if start < end:
                parts.append(_Part(start, end - start, None))
            yield parts

    def _range(self, first: int, count: int) -> tuple[int, int]:
        start = first * self._cluster_bytes
        return start, min(start + count * self._cluster_bytes, self._blocks.size_bytes)


def _cut(content: bytes, lengths: Sequence[int]) -> Iterator[Sequence[Output]]:
    """``content`` in pieces of ``lengths``."""
    rest = memoryview(content)
    for length in lengths:
        yield [rest[:length]]
        rest = rest[length:]


def _part_frame(plain: memoryview, start: int, part: _Part) -> bytes:
    """A frame for ``part`` of the piece that starts at ``start`` and holds ``plain``."""
    return zstd_frame(plain[part.start - start : part.start - start + part.length])
