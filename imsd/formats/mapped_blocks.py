"""Disks that a table cuts into blocks of one size: each absent, plain in the file, or packed (compressed).

What VHD, VHDX, VDI, QED, QCOW and VMDK have in common. A format says where its blocks are; resolving a
range, asking for all its bytes at once, joining neighbours and unpacking is done here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from imsd.contract import ByteRange, ImageRefused

from .source import BlockSource, ByteSource, Extent

Places = npt.NDArray[np.int64]

# In the place of an offset.
ABSENT, PACKED = -1, -2

# Blocks that are looked up at once.
MAX_LOOK_BLOCKS = 1 << 16
# One call of `extents` looks up no more blocks; what they leave counts as data.
MAX_EXTENT_BLOCKS = 1 << 20
# Bytes between two places that are read as one.
MAX_GAP_BYTES = 4096


@dataclass(frozen=True, slots=True)
class StoredRun:
    """``length`` bytes of the disk from ``guest`` lie plain in the file at ``offset``."""

    guest: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The block at ``guest`` of the disk lies packed in ``place``; ``is_cut``: the file ends inside."""

    guest: int
    place: ByteRange
    is_cut: bool = False


class MappedBlocks(BlockSource):
    """A format derives from this and says where blocks are. Thread-safe if `_places` is."""

    def __init__(self, source: ByteSource, size_bytes: int, block_bytes: int) -> None:
        """``size_bytes``: of the disk, a multiple of 512. The last block may reach beyond it."""
        self.size_bytes = size_bytes
        self._source = source
        self._block_bytes = block_bytes

    @abstractmethod
    def _places(self, first: int, count: int) -> Places:
        """Where blocks ``first`` to ``first + count`` (at most `MAX_LOOK_BLOCKS`) begin in the file.

        `ABSENT` reads as zeros, `PACKED` ones are asked for with `_packed`. Whether a plain block lies
        inside the file is checked by the caller. Raises `NeedBytes`, ImageRefused.
        """

    def _packed(self, blocks: Sequence[int]) -> Sequence[PackedBlock]:
        """The places of blocks that are `PACKED`. Raises `NeedBytes`, ImageRefused."""
        raise AssertionError("this format has no packed blocks")

    def _unpack_into(self, content: memoryview, out: memoryview) -> bool:
        """Fill ``out``, one block, from the bytes of its place; False when they cannot be decoded."""
        raise AssertionError("this format has no packed blocks")

    @abstractmethod
    def _truncated(self, what: str) -> ImageRefused: ...

    @abstractmethod
    def _malformed(self, what: str) -> ImageRefused: ...

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        end = start + length
        looked_at = 0
        for first, count in self._slices(start, end):
            if looked_at >= MAX_EXTENT_BLOCKS:
                _add(found, max(start, first * self._block_bytes), end, is_zero=False)
                break
            looked_at += count
            is_zero = self._places(first, count) == ABSENT
            bounds = [0, *(np.flatnonzero(np.diff(is_zero)) + 1).tolist(), count]
            for low, high in pairwise(bounds):
                low_byte = max(start, (first + low) * self._block_bytes)
                high_byte = min(end, (first + high) * self._block_bytes)
                _add(found, low_byte, high_byte, is_zero=bool(is_zero[low]))
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        stored: list[StoredRun] = []
        packed: list[PackedBlock] = []
        for first, count in self._slices(offset, end):
            places = self._places(first, count)
            stored += self._stored_runs(first, places, offset, end)
            if len(blocks := np.flatnonzero(places == PACKED)):
                packed += self._packed((blocks + first).tolist())
        batches = list(_batches(packed))
        if stored or batches:
            self._source.require(
                [*(ByteRange(run.offset, run.length) for run in stored), *(place for place, _ in batches)]
            )
        covered = sum(run.length for run in stored) + sum(
            self._covered(block, offset, end) for block in packed
        )
        if covered < len(buffer):
            np.frombuffer(buffer, np.uint8)[:] = 0
        for run in stored:
            at = run.guest - offset
            self._source.read_into(run.offset, buffer[at : at + run.length])
        for place, blocks_there in batches:
            content = memoryview(self._source.read(place.offset, place.length))
            for block in blocks_there:
                at = block.place.offset - place.offset
                self._expand(block, content[at : at + block.place.length], offset, buffer)

    def _slices(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(first block, count) that cover a range of bytes."""
        first, stop = start // self._block_bytes, -(-end // self._block_bytes)
        while first < stop:
            count = min(stop - first, MAX_LOOK_BLOCKS)
            yield first, count
            first += count

    def _stored_runs(self, first: int, places: Places, start: int, end: int) -> Iterator[StoredRun]:
        """What of ``start`` to ``end`` lies plain in the file, neighbours in both joined."""
        blocks = np.flatnonzero(places >= 0)
        if not len(blocks):
            return
        guest = (first + blocks) * self._block_bytes
        skipped = np.maximum(start - guest, 0)
        length = np.minimum(end - guest, self._block_bytes) - skipped
        guest, offset = guest + skipped, places[blocks] + skipped
        breaks = (np.diff(guest) != length[:-1]) | (np.diff(offset) != length[:-1])
        bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(guest)]
        for low, high in pairwise(bounds):
            run = StoredRun(int(guest[low]), int(offset[low]), int(length[low:high].sum()))
            if run.offset + run.length > self._source.size_bytes:
                raise self._truncated(
                    f"the disk's bytes from {run.guest} lie beyond its end at {self._source.size_bytes}"
                )
            yield run

    def _covered(self, block: PackedBlock, start: int, end: int) -> int:
        return min(end, block.guest + self._block_bytes) - max(start, block.guest)

    def _expand(self, block: PackedBlock, content: memoryview, offset: int, buffer: memoryview) -> None:
        """Decode a block into the part of ``buffer`` (the disk from ``offset``) that it covers."""
        low = max(block.guest, offset)
        high = min(block.guest + self._block_bytes, offset + len(buffer))
        target = buffer[low - offset : high - offset]
        is_whole = high - low == self._block_bytes
        out = target if is_whole else memoryview(bytearray(self._block_bytes))
        if not self._unpack_into(content, out):
            if block.is_cut:
                raise self._truncated(f"it ends inside the compressed block at {block.place.offset}")
            raise self._malformed(f"the compressed block at {block.place.offset} cannot be decoded")
        if not is_whole:
            target[:] = out[low - block.guest : high - block.guest]


def _add(found: list[Extent], low: int, high: int, *, is_zero: bool) -> None:
    if found and found[-1].is_zero == is_zero:
        low = found.pop().start
    found.append(Extent(low, high - low, is_zero))


def _batches(blocks: Iterable[PackedBlock]) -> Iterator[tuple[ByteRange, list[PackedBlock]]]:
    """Blocks that are read together: at most `MAX_GAP_BYTES` lie between one and the next."""
    batch: list[PackedBlock] = []
    start = end = 0
    for block in sorted(blocks, key=lambda block: block.place.offset):
        if batch and block.place.offset > end + MAX_GAP_BYTES:
            yield ByteRange(start, end - start), batch
            batch = []
        if not batch:
            start = end = block.place.offset
        batch.append(block)
        end = max(end, block.place.end)
    if batch:
        yield ByteRange(start, end - start), batch
