"""The file of an upload, put together from the parts that were staged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from imsd.contract import BlobId, BlobStore, ByteRange, run_blocking

from .fetched_segments import SegmentSource
from .sealed_parts import SealedParts
from .store_read import read_blobs

# What zero parts read as, over and over.
ZEROS = memoryview(bytes(1 << 20))

STAGING_PREFIX = "staging/"


def staging_blob(upload_id: str, number: int) -> BlobId:
    """The blob of a part of an upload. Digits in front keep parts in order when listed."""
    return BlobId(f"{staging_prefix(upload_id)}{number:08d}")


def staging_prefix(upload_id: str) -> str:
    """What the blobs of an upload, and only they, begin with."""
    return f"{STAGING_PREFIX}{upload_id}/"


@dataclass(frozen=True, slots=True)
class StagedPart:
    """``length`` bytes (1 or more) of the file from ``start``: those of blob ``number``, or zeros."""

    number: int
    start: int
    length: int
    is_zero: bool

    @property
    def end(self) -> int:
        return self.start + self.length


class StagedSource(SegmentSource):
    """A staged file as a byte source. Parts of zeros are always at hand and take no memory."""

    def __init__(
        self,
        store: BlobStore,
        upload_id: str,
        parts: Iterable[StagedPart],
        sealed: SealedParts | None = None,
    ) -> None:
        """``parts`` cover the file from byte 0 without gap; any order. ``sealed``: they were sealed by that.

        Raises ValueError.
        """
        self._parts = sorted(parts, key=lambda part: part.start)
        self._starts = [part.start for part in self._parts]
        end = 0
        for part in self._parts:
            if part.start != end or part.length < 1:
                raise ValueError(f"part {part.number} is at {part.start}, the one before ends at {end}")
            end = part.end
        super().__init__(end)
        self._store = store
        self._upload_id = upload_id
        self._sealed = sealed

    def data_ranges(self) -> Iterator[ByteRange]:
        """What was staged as bytes, in order; zeros lie between."""
        start = end = 0
        for part in self._parts:
            if part.is_zero:
                continue
            if part.start != end:
                if start < end:
                    yield ByteRange(start, end - start)
                start = part.start
            end = part.end
        if start < end:
            yield ByteRange(start, end - start)

    def require(self, ranges: Sequence[ByteRange]) -> None:
        super().require(self._staged(ranges))

    @asynccontextmanager
    async def fetching(self, ranges: Sequence[ByteRange]) -> AsyncIterator[None]:
        async with super().fetching(self._staged(ranges)):
            yield

    def _pieces(self, offset: int, length: int) -> list[memoryview]:
        pieces: list[memoryview] = []
        for part, piece in self._cut(ByteRange(offset, length)):
            if not part.is_zero:
                pieces += super()._pieces(piece.offset, piece.length)
                continue
            whole, rest = divmod(piece.length, len(ZEROS))
            pieces += [ZEROS] * whole
            if rest:
                pieces.append(ZEROS[:rest])
        return pieces

    async def _load(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        wanted: dict[StagedPart, list[ByteRange]] = {}
        plan: list[list[tuple[StagedPart, int] | int]] = []
        for whole in ranges:
            sources: list[tuple[StagedPart, int] | int] = []
            for part, piece in self._cut(whole):
                if part.is_zero:  # a gap between two ranges that became one
                    sources.append(piece.length)
                    continue
                places = wanted.setdefault(part, [])
                sources.append((part, len(places)))
                places.append(ByteRange(piece.offset - part.start, piece.length))
            plan.append(sources)
        loaded = await self._load_parts(wanted)
        return [
            _joined([bytes(at) if isinstance(at, int) else loaded[at[0]][at[1]] for at in sources])
            for sources in plan
        ]

    async def _load_parts(
        self, wanted: Mapping[StagedPart, Sequence[ByteRange]]
    ) -> dict[StagedPart, list[bytes]]:
        blobs = {part: staging_blob(self._upload_id, part.number) for part in wanted}
        if self._sealed is None:
            loaded = await read_blobs(self._store, {blobs[part]: wanted[part] for part in wanted})
            return {part: loaded[blobs[part]] for part in wanted}
        stored = {
            part: [self._sealed.stored_range(part.length, place) for place in places]
            for part, places in wanted.items()
        }
        loaded = await read_blobs(self._store, {blobs[part]: stored[part] for part in wanted})
        return await run_blocking(self._opened, self._sealed, wanted, {p: loaded[blobs[p]] for p in wanted})

    @staticmethod
    def _opened(
        sealed: SealedParts,
        wanted: Mapping[StagedPart, Sequence[ByteRange]],
        stored: Mapping[StagedPart, Sequence[bytes]],
    ) -> dict[StagedPart, list[bytes]]:
        return {
            part: [
                sealed.opened(part.number, part.length, place, content)
                for place, content in zip(places, stored[part], strict=True)
            ]
            for part, places in wanted.items()
        }

    def _staged(self, ranges: Iterable[ByteRange]) -> list[ByteRange]:
        """The parts of ``ranges`` that are not zeros."""
        return [
            piece for wanted in self._inside(ranges) for part, piece in self._cut(wanted) if not part.is_zero
        ]

    def _cut(self, wanted: ByteRange) -> Iterator[tuple[StagedPart, ByteRange]]:
        """``wanted``, inside the file, cut where parts begin."""
        position = wanted.offset
        index = bisect_right(self._starts, position) - 1
        while position < wanted.end:
            part = self._parts[index]
            end = min(part.end, wanted.end)
            yield part, ByteRange(position, end - position)
            position, index = end, index + 1


def _joined(pieces: list[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
