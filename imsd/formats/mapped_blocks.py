"""Disks that tables cut into blocks of one size: each absent, plain in the file, or packed (compressed).

What all formats with such tables have in common: asking for all bytes of a range at once, joining
neighbours and unpacking. `MappedBlocks` also resolves a range; a format only says where its blocks are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from imsd.contract import ByteRange, ImageRefused

from .page_cache import Words
from .refusals import Refusals
from .source import BlockSource, ByteSource, Extent

Places = npt.NDArray[np.int64]
# Where pieces are in the disk and in the file, and how long they are.
Pieces = tuple[Places, Places, Places]

# In the place of an offset.
ABSENT, PACKED = -1, -2

# Blocks that are looked up at once.
MAX_LOOK_BLOCKS = 1 << 16
# One call of `extents` looks up no more blocks; what they leave counts as data.
MAX_EXTENT_BLOCKS = 1 << 20
# When it has found so many extents, what is left counts as data too. A hostile disk may be all short ones.
MAX_EXTENTS = 1 << 16
# Bytes between two places that are read as one; less for smaller blocks.
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


class ResolvedBlocks(BlockSource):
    """A format derives from this and resolves ranges. Thread-safe if `_resolve` is."""

    _refusals: ClassVar[Refusals]

    def __init__(
        self, source: ByteSource, size_bytes: int, block_bytes: int, data_bytes: int | None = None
    ) -> None:
        """``size_bytes``: of the disk, a multiple of 512. The last block may reach beyond it.

        ``data_bytes``: from here on the disk is zeros, whatever the file has there; up to 511 bytes less.
        """
        self.size_bytes = size_bytes
        self._source = source
        self._block_bytes = block_bytes
        self._data_bytes = size_bytes if data_bytes is None else data_bytes

    @abstractmethod
    def _resolve(self, start: int, end: int) -> tuple[Sequence[StoredRun], Sequence[PackedBlock]]:
        """What of a range (not empty) lies in the file, runs cut to the range; the rest is zeros.

        Raises `NeedBytes`, ImageRefused.
        """

    def _read_run(self, run: StoredRun, out: memoryview) -> None:
        """Fill ``out`` with a run whose bytes were asked for. Raises as `read_into`."""
        self._source.read_into(run.offset, out)

    def _unpack_into(self, content: memoryview, out: memoryview) -> bool:
        """Fill ``out``, one block, from the bytes of its place; False when they cannot be decoded."""
        raise AssertionError("this format has no packed blocks")

    def _unpacked_bytes(self, guest: int) -> int:
        """How long the packed block at ``guest`` is: a format's last one may end with the disk."""
        return self._block_bytes

    def _truncated(self, what: str) -> ImageRefused:
        return self._refusals.truncated(what)

    def _malformed(self, what: str) -> ImageRefused:
        return self._refusals.malformed(what)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = min(offset + len(buffer), self._data_bytes)
        inside = max(0, end - offset)
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)
            buffer = buffer[:inside]
        if not inside:
            return
        stored, packed = self._resolve(offset, end)
        batches = list(_batches(packed, min(MAX_GAP_BYTES, self._block_bytes)))
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
            self._read_run(run, buffer[at : at + run.length])
        for place, blocks_there in batches:
            content = memoryview(self._source.read(place.offset, place.length))
            for block in blocks_there:
                at = block.place.offset - place.offset
                self._expand(block, content[at : at + block.place.length], offset, buffer)

    def _joined(self, guest: Places, offset: Places, length: Places) -> Iterator[StoredRun]:
        """The runs that pieces (not empty, in guest order) make up, neighbours in both joined.

        Raises ImageRefused for one that is not inside the file.
        """
        if not len(guest):
            return
        self._check_ends(guest, offset, length)
        breaks = (np.diff(guest) != length[:-1]) | (np.diff(offset) != length[:-1])
        bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(guest)]
        for low, high in pairwise(bounds):
            yield StoredRun(int(guest[low]), int(offset[low]), int(length[low:high].sum()))

    def _check_ends(self, guest: Places, offset: Places, length: Places) -> None:
        """Raises ImageRefused for a piece that is not inside the file."""
        file_end = self._source.size_bytes
        if len(beyond := guest[offset > file_end - length]):
            raise self._truncated(f"the disk's bytes from {int(beyond[0])} lie beyond its end at {file_end}")

    def _check_begins(self, offsets: Words) -> None:
        """Raises ImageRefused if a packed block at one of ``offsets`` begins beyond the end of the file."""
        offset, file_end = int(offsets.max(initial=0)), self._source.size_bytes
        if offset >= file_end:
            raise self._truncated(f"a compressed block at {offset} lies beyond its end at {file_end}")

    def _packed_block(self, guest: int, offset: int, end: int) -> PackedBlock:
        """A block that begins inside the file, whose end may cut it."""
        file_end = self._source.size_bytes
        return PackedBlock(guest, ByteRange(offset, min(end, file_end) - offset), end > file_end)

    def _covered(self, block: PackedBlock, start: int, end: int) -> int:
        return min(end, block.guest + self._block_bytes) - max(start, block.guest)

    def _expand(self, block: PackedBlock, content: memoryview, offset: int, buffer: memoryview) -> None:
        """Decode a block into the part of ``buffer`` (the disk from ``offset``) that it covers."""
        block_bytes = self._unpacked_bytes(block.guest)
        low = max(block.guest, offset)
        high = min(block.guest + block_bytes, offset + len(buffer))
        target = buffer[low - offset : high - offset]
        is_whole = high - low == block_bytes
        out = target if is_whole else memoryview(bytearray(block_bytes))
        if not self._unpack_into(content, out):
            if block.is_cut:
                raise self._truncated(f"it ends inside the compressed block at {block.place.offset}")
            raise self._malformed(f"the compressed block at {block.place.offset} cannot be decoded")
        if not is_whole:
            target[:] = out[low - block.guest : high - block.guest]


class MappedBlocks(ResolvedBlocks):
    """A format derives from this and says where blocks are. Thread-safe if `_places` is."""

    @abstractmethod
    def _places(self, first: int, count: int) -> Places:
        """Where blocks ``first`` to ``first + count`` (at most `MAX_LOOK_BLOCKS`) begin in the file.

        `ABSENT` reads as zeros, `PACKED` ones are asked for with `_packed`. Whether a plain block lies
        inside the file is checked by the caller; that no packed one begins beyond its end, here. Raises
        `NeedBytes`, ImageRefused.
        """

    def _packed(self, blocks: Sequence[int]) -> Sequence[PackedBlock]:
        """The places of blocks (in order) that are `PACKED`. Raises `NeedBytes`, ImageRefused."""
        raise AssertionError("this format has no packed blocks")

    def _absent_from(self, first: int, count: int) -> int:
        """How many of ``count`` blocks from ``first`` on are known to be absent at no cost; 0 if in doubt.

        Formats with tables in two levels tell of tables that are not there. Raises as `_places`.
        """
        return 0

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        end = start + length
        first, stop = start // self._block_bytes, -(-end // self._block_bytes)
        looked_at = 0
        while first < stop:
            if count := self._absent_from(first, stop - first):
                bounds, is_zero = [0, count], np.ones(1, np.bool_)
            elif looked_at < MAX_EXTENT_BLOCKS and len(found) < MAX_EXTENTS:
                count = min(stop - first, MAX_LOOK_BLOCKS)
                looked_at += count
                places = self._places(first, count)
                self._check_inside(first, places, start, end)
                is_zero = places == ABSENT
                bounds = [0, *(np.flatnonzero(np.diff(is_zero)) + 1).tolist(), count]
            else:
                count = stop - first
                bounds, is_zero = [0, count], np.zeros(1, np.bool_)
            for low, high in pairwise(bounds):
                low_byte = max(start, (first + low) * self._block_bytes)
                high_byte = min(end, (first + high) * self._block_bytes)
                add_extent(found, low_byte, high_byte, is_zero=bool(is_zero[low]))
            first += count
        return found

    def _resolve(self, start: int, end: int) -> tuple[Sequence[StoredRun], Sequence[PackedBlock]]:
        stored: list[StoredRun] = []
        packed: list[PackedBlock] = []
        for first, count in self._slices(start, end):
            places = self._places(first, count)
            stored += self._joined(*self._stored_pieces(first, places, start, end))
            if len(blocks := np.flatnonzero(places == PACKED)):
                packed += self._packed((blocks + first).tolist())
        return stored, packed

    def _slices(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(first block, count) that cover a range of bytes."""
        first, stop = start // self._block_bytes, -(-end // self._block_bytes)
        while first < stop:
            count = min(stop - first, MAX_LOOK_BLOCKS)
            yield first, count
            first += count

    def _check_inside(self, first: int, places: Places, start: int, end: int) -> None:
        """Refuse plain blocks, of which the disk has ``start`` to ``end``, as reading them would."""
        end = min(end, self._data_bytes)
        if start < end and int(places.max()) > self._source.size_bytes - self._block_bytes:
            self._check_ends(*self._stored_pieces(first, places, start, end))

    def _stored_pieces(self, first: int, places: Places, start: int, end: int) -> Pieces:
        """What of ``start`` to ``end`` lies plain in the file."""
        blocks = np.flatnonzero(places >= 0)
        if np.any(places > self._source.size_bytes):
            raise self._truncated(f"a block lies beyond its end at {self._source.size_bytes}")
        guest = (first + blocks) * self._block_bytes
        skipped = np.maximum(start - guest, 0)
        length = np.minimum(end - guest, self._block_bytes) - skipped
        return guest + skipped, places[blocks] + skipped, length


def add_extent(found: list[Extent], low: int, high: int, *, is_zero: bool) -> None:
    """Append bytes ``low`` to ``high``, joined with what comes before if that is alike."""
    if found and found[-1].is_zero == is_zero:
        low = found.pop().start
    found.append(Extent(low, high - low, is_zero))


def _batches(blocks: Iterable[PackedBlock], gap_bytes: int) -> Iterator[tuple[ByteRange, list[PackedBlock]]]:
    """Blocks that are read together: at most ``gap_bytes`` lie between one and the next."""
    batch: list[PackedBlock] = []
    start = end = 0
    for block in sorted(blocks, key=lambda block: block.place.offset):
        if batch and block.place.offset > end + gap_bytes:
            yield ByteRange(start, end - start), batch
            batch = []
        if not batch:
            start = end = block.place.offset
        batch.append(block)
        end = max(end, block.place.end)
    if batch:
        yield ByteRange(start, end - start), batch
