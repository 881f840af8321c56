"""A stored image as a disk: its chunks fetched, proved to be what was written, and decoded.

The stored bytes of every chunk that is read are compared with their check, so a byte that was altered
in the store or on the way is DataLoss that names the blob and the place on the disk, and never leaves.
What is decoded has a checksum in its frame besides.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import zstandard
from blake3 import blake3

from imsd.contract import BlobId, BlobStore, Buffer, ByteRange, DataLoss
from imsd.formats.output import PlainOutput, Zeros
from imsd.formats.source import Extent, FetchedSource, Frame, FrameSource, NeedBytes
from imsd.formats.zvhd_codec import unzstd_frames

from .codec import check_of
from .decode_pool import DecodePool
from .fetched_segments import SegmentSource
from .index import Codec, pack_blob
from .manifest_reader import ManifestReader, StoredChunk, open_manifest
from .store_read import LOST_HINT, read_blobs
from .tree_digest import format_digest

# All packs of a manifest make one address space: pack number n begins at n << PACK_SHIFT. Offsets in a
# pack fit 32 bits and packs are far shorter, so ranges of two packs never touch.
PACK_SHIFT = 32

OnRead = Callable[[int], None]


class PackSource(SegmentSource):
    """The packs that a manifest lists, as one file."""

    # Two chunks of one file system often lie with a chunk of something else between them.
    coalesce_gap_bytes = 64 << 10

    def __init__(self, store: BlobStore, pack_ids: Sequence[str]) -> None:
        super().__init__(len(pack_ids) << PACK_SHIFT)
        self._store = store
        self._blobs = [pack_blob(pack_id) for pack_id in pack_ids]

    def place(self, chunk: StoredChunk) -> ByteRange:
        return ByteRange((chunk.pack << PACK_SHIFT) + chunk.offset, chunk.stored_length)

    def blob(self, chunk: StoredChunk) -> BlobId:
        return self._blobs[chunk.pack]

    async def _load(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        wanted: dict[BlobId, list[ByteRange]] = {}
        for place in ranges:
            number = place.offset >> PACK_SHIFT
            inside = ByteRange(place.offset - (number << PACK_SHIFT), place.length)
            wanted.setdefault(self._blobs[number], []).append(inside)
        loaded = await read_blobs(self._store, wanted)
        return [piece for blob in wanted for piece in loaded[blob]]


class GuestFetch(FetchedSource):
    """Fetches for a range of the disk, so that an error can say where on the disk bytes are lost."""

    def __init__(self, source: FetchedSource, guest: ByteRange) -> None:
        self.size_bytes = source.size_bytes
        self._source = source
        self._guest = guest

    @asynccontextmanager
    async def fetching(self, ranges: Sequence[ByteRange]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._source.fetching(ranges))
            except DataLoss as error:
                raise DataLoss(
                    f"the disk cannot be read from guest offset {self._guest.offset} "
                    f"to {self._guest.end}: {error.message}",
                    hint=error.hint,
                ) from None
            yield

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        return self._source.read(offset, length)


class ChunkReader(FrameSource):
    """A stored image; see `open_chunk_reader`. Thread-safe; runs in the decode pool.

    Retains the pack bytes of the windows that are being read, and a few manifest pages.

    ``digests``: what is decoded is compared with the chunk's digest too, which finds a chunk that was
    wrong when it was stored. It costs more than all else but decoding, and is for `verify`.
    ``on_read`` is told, in any thread, the plain bytes of each chunk that is taken from what was fetched.
    """

    def __init__(
        self,
        store: BlobStore,
        manifest: ManifestReader,
        *,
        digests: bool = False,
        on_read: OnRead | None = None,
    ) -> None:
        self.manifest = manifest
        self.size_bytes = manifest.size_bytes
        self._packs = PackSource(store, manifest.pack_ids)
        self._compares_digests = digests
        self._on_read = on_read

    @property
    def digest(self) -> str:
        """The tree digest of the disk, as the manifest has it: ``b3t:`` and 64 hex digits."""
        return format_digest(self.manifest.tree_digest)

    @property
    def bytes_at_hand(self) -> int:
        """How many bytes of packs are retained now."""
        return self._packs.bytes_at_hand

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        result: list[Extent] = []
        end = start + length
        position = run = start  # from ``run`` to ``position``: data that is not listed yet
        for chunk in self._chunks(start, length):
            if chunk.start > position:
                if run < position:
                    result.append(Extent(run, position - run, is_zero=False))
                result.append(Extent(position, chunk.start - position, is_zero=True))
                run = chunk.start
            position = min(chunk.end, end)
        if run < position:
            result.append(Extent(run, position - run, is_zero=False))
        if position < end:
            result.append(Extent(position, end - position, is_zero=True))
        return result

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``, best 1 to 4 MiB: chunks at its edges are decoded whole for a part.

        Raises `NeedBytes`, DataLoss.
        """
        target = np.frombuffer(buffer, np.uint8)
        position = 0
        for output in self._outputs(offset, len(buffer)):
            if isinstance(output, Zeros):
                stop = position + output.length
                target[position:stop] = 0
            else:
                stop = position + len(output)
                target[position:stop] = np.frombuffer(output, np.uint8)
            position = stop

    def read(self, start: int, length: int) -> Sequence[PlainOutput]:
        """As `BlockSource.read`, but chunks leave as they were decoded, without a copy."""
        return list(self._outputs(start, length))

    def frame_table(self, start: int, length: int) -> Sequence[tuple[int, int, int]]:
        return [
            (at, plain, 0 if chunk.codec == Codec.RAW else stored)
            for chunk in self._chunks(start, length)
            for at, plain, stored in _parts(chunk)
            if at < start + length and at + plain > start
        ]

    def require(self, pieces: Sequence[tuple[int, int]]) -> None:
        if pieces:
            start, end = pieces[0][0], sum(pieces[-1])
            chunks = (chunk for piece in pieces for chunk in self._chunks(*piece))
            self._require(start, end - start, list(chunks))

    def frames(self, start: int, length: int) -> Sequence[Frame]:
        """As `FrameSource.frames`. What has no frame is fetched too: it will be read next."""
        chunks = self._chunks(start, length)
        self._require(start, length, chunks)
        end = start + length
        frames = (frame for chunk in chunks for frame in self._frames(chunk))
        return [frame for frame in frames if frame.start < end and frame.start + frame.length > start]

    def check_chunk(self, chunk: StoredChunk) -> None:
        """Decode one chunk and compare it with its digest. Raises `NeedBytes`, DataLoss."""
        self._require(chunk.start, chunk.length, [chunk])
        self._plain(chunk, self._stored(chunk))

    def blob_of(self, chunk: StoredChunk) -> BlobId:
        """The pack a chunk lies in."""
        return self._packs.blob(chunk)

    def _outputs(self, start: int, length: int) -> Iterator[PlainOutput]:
        end = start + length
        chunks = self._chunks(start, length)
        self._require(start, length, chunks)
        position = start
        for chunk in chunks:
            if chunk.start > position:
                yield Zeros(chunk.start - position)
                position = chunk.start
            for at, plain in self._pieces(chunk, position, end):
                stop = min(at + len(plain), end)
                is_whole = at == position and stop == at + len(plain)
                yield plain if is_whole else memoryview(plain)[position - at : stop - at]
                position = stop
        if position < end:
            yield Zeros(end - position)

    def _chunks(self, start: int, length: int) -> list[StoredChunk]:
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise ValueError(f"{length} bytes from {start} are not on a disk of {self.size_bytes}")
        return self.manifest.chunks(start, length)

    def _require(self, start: int, length: int, chunks: Sequence[StoredChunk]) -> None:
        try:
            self._packs.require([self._packs.place(chunk) for chunk in chunks])
        except NeedBytes as need:
            raise NeedBytes(GuestFetch(need.source, ByteRange(start, length)), need.ranges) from None

    def _stored(self, chunk: StoredChunk) -> bytes | memoryview:
        """The chunk as it was written."""
        place = self._packs.place(chunk)
        stored = self._packs.read(place.offset, place.length)
        if check_of(stored) != chunk.check:
            raise self._damaged(chunk, "its bytes are not those that were written")
        if self._on_read:
            self._on_read(chunk.length)
        return stored

    def _pieces(self, chunk: StoredChunk, start: int, end: int) -> Iterator[tuple[int, Buffer]]:
        """(place on the disk, bytes) of the chunk's frames that touch the range."""
        stored = self._stored(chunk)
        if chunk.codec != Codec.ZSTD or self._compares_digests:
            yield chunk.start, self._plain(chunk, stored)
            return
        for at, length, frame in _cut(chunk, stored):
            if at < end and at + length > start:
                yield at, self._decoded(chunk, frame, length)

    def _plain(self, chunk: StoredChunk, stored: Buffer) -> Buffer:
        """The chunk's bytes."""
        plain = stored
        if chunk.codec == Codec.ZSTD:
            frames = [self._decoded(chunk, frame, length) for _, length, frame in _cut(chunk, stored)]
            plain = frames[0] if len(frames) == 1 else b"".join(frames)
        elif chunk.codec == Codec.RECORD:
            plain = self._record(chunk, stored)
        if self._compares_digests and blake3(plain).digest() != chunk.digest:
            raise self._damaged(chunk, "its bytes do not have its digest")
        return plain

    def _record(self, chunk: StoredChunk, stored: Buffer) -> bytes:
        plain = unzstd_frames(memoryview(stored), chunk.length)
        if plain is None:
            raise self._damaged(chunk, "its zstd frames are damaged")
        return plain

    def _decoded(self, chunk: StoredChunk, frame: memoryview, length: int) -> bytes:
        try:
            return decode_frame(frame, length)
        except ValueError as error:
            raise self._damaged(chunk, str(error)) from None

    def _frames(self, chunk: StoredChunk) -> list[Frame]:
        if chunk.codec == Codec.RAW:
            return [Frame(chunk.start, chunk.length, None)]
        if chunk.codec == Codec.RECORD:
            # With checksums or without: its check has proved the bytes, and nobody makes them better.
            return [Frame(chunk.start, chunk.length, self._stored(chunk))]
        try:
            return [
                # A frame without checksum is good to read, and not good enough to travel.
                Frame(start, length, frame if check_frame_header(frame, length) else None)
                for start, length, frame in _cut(chunk, self._stored(chunk))
            ]
        except ValueError as error:
            raise self._damaged(chunk, str(error)) from None

    def _damaged(self, chunk: StoredChunk, why: str) -> DataLoss:
        return DataLoss(
            f"the chunk at guest offset {chunk.start} ({chunk.length} bytes) is damaged in blob "
            f"{self.blob_of(chunk)} at byte {chunk.offset}: {why}",
            hint=LOST_HINT,
        )


def _parts(chunk: StoredChunk) -> list[tuple[int, int, int]]:
    """(start on the disk, length, stored length) of what is stored of a chunk in one piece each."""
    if not chunk.first_length:
        return [(chunk.start, chunk.length, chunk.stored_length)]
    return [
        (chunk.start, chunk.first_length, chunk.first_stored),
        (
            chunk.start + chunk.first_length,
            chunk.length - chunk.first_length,
            chunk.stored_length - chunk.first_stored,
        ),
    ]


def _cut(chunk: StoredChunk, stored: Buffer) -> list[tuple[int, int, memoryview]]:
    """As `_parts`, with the bytes of each."""
    rest = memoryview(stored)
    cut = []
    for start, length, size in _parts(chunk):
        cut.append((start, length, rest[:size]))
        rest = rest[size:]
    return cut


@asynccontextmanager
async def open_chunk_reader(
    store: BlobStore,
    manifest_id: str,
    pool: DecodePool,
    *,
    digests: bool = False,
    on_read: OnRead | None = None,
) -> AsyncIterator[ChunkReader]:
    """Open a stored image; the caller holds its manifest; see `ChunkReader`. Raises DataLoss, Unavailable."""
    manifest = await open_manifest(store, manifest_id, pool)
    yield ChunkReader(store, manifest, digests=digests, on_read=on_read)


class _ThreadDecoder(threading.local):
    """One decoder a thread: it may not be shared, and costs 100 KiB to make."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_decoder = _ThreadDecoder()


def check_frame_header(frame: Buffer, length: int) -> bool:
    """Whether the zstd frame carries a checksum. Raises ValueError unless its content is ``length`` bytes.

    Looked at before decoding: the decoder allocates what the header says.
    """
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError:
        raise ValueError("it is not a zstd frame") from None
    if header.content_size != length or header.dict_id:
        raise ValueError(f"its frame claims to hold {header.content_size} bytes")
    return bool(header.has_checksum)


def decode_frame(frame: Buffer, length: int) -> bytes:
    """The content of exactly one zstd frame. Raises ValueError unless it is ``length`` bytes."""
    check_frame_header(frame, length)
    try:
        plain: bytes = _decoder.zstd.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise ValueError("its zstd frame is damaged") from None
    if len(plain) != length:
        raise ValueError(f"its frame holds {len(plain)} bytes")
    return plain
