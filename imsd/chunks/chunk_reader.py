"""A stored image as a disk: its chunks fetched, proved to be what was written, and decoded.

The stored bytes of every chunk that is read are compared with their check, so a byte that was altered
in the store or on the way is DataLoss that names the blob and the place on the disk, and never leaves.
What is decoded has a checksum in its frame besides.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
from blake3 import blake3

from imsd.contract import BlobId, BlobStore, Buffer, ByteRange, DataLoss
from imsd.formats.output import PlainOutput, Zeros
from imsd.formats.source import Extent, Frame, FrameSource, NeedBytes
from imsd.formats.zvhd_codec import unzstd_frames

from .cipher import ChunkCipher
from .codec import check_of
from .decode_pool import DecodePool
from .frames import check_frame_header, decode_frame
from .index import Codec
from .manifest_reader import ManifestReader, StoredChunk, open_manifest
from .pack_source import PackSource
from .sealing import open_chunk
from .store_read import LOST_HINT, GuestFetch
from .tree_digest import KEYED_PREFIX, PREFIX, TreeHasher, format_digest

OnRead = Callable[[int], None]

ALTERED = "its bytes are not those that were written"
FOREIGN = "it is not what was sealed for this place of this disk"


class ChunkReader(FrameSource):
    """A stored image; see `open_chunk_reader`. Thread-safe; runs in the decode pool.

    Retains the pack bytes of the windows that are being read, and a few manifest pages.

    ``digests``: what is decoded is compared with the chunk's digest too, which finds a chunk that was
    wrong when it was stored. It costs more than all else but decoding, and is for `verify`.
    ``cipher``: that of an encrypted image. What it opens is what was sealed, so the check is compared only
    to say what is wrong, and for `verify`.
    ``on_read`` is told, in any thread, the plain bytes of each chunk that is taken from what was fetched.
    """

    def __init__(
        self,
        store: BlobStore,
        manifest: ManifestReader,
        *,
        digests: bool = False,
        on_read: OnRead | None = None,
        cipher: ChunkCipher | None = None,
    ) -> None:
        """Raises DataLoss if the manifest is not that of the cipher's image; see `ManifestReader.require`."""
        manifest.require(cipher)
        self.manifest = manifest
        self.size_bytes = manifest.size_bytes
        self._packs = PackSource(store, manifest.pack_ids)
        self._compares_digests = digests
        self._on_read = on_read
        self._cipher = cipher

    @property
    def digest(self) -> str:
        """The tree digest of the disk, as the manifest has it; ``b3k:`` of an encrypted one."""
        return format_digest(self.manifest.tree_digest, KEYED_PREFIX if self._cipher else PREFIX)

    def digest_of(self, tree: TreeHasher) -> str:
        """What `digest` is if the disk is as ``tree`` has it."""
        return self._cipher.tree_digest(tree.digest()) if self._cipher else tree.digest()

    def require_digest(self, digest: str) -> None:
        """Whoever knows the digest of the disk finds out an older manifest of the image. Raises DataLoss."""
        if self.digest != digest:
            blob = self.manifest.content.blob
            raise DataLoss(f"blob {blob} is that of a disk {self.digest}, not {digest}", hint=LOST_HINT)

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
            (at, plain, 0 if chunk.form == Codec.RAW else stored)
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

    def require_chunks(self, chunks: Sequence[StoredChunk]) -> None:
        """As `require`, for one or more chunks in order that were looked up before."""
        self._require(chunks[0].start, chunks[-1].end - chunks[0].start, chunks)

    def frames_of(self, chunks: Sequence[StoredChunk]) -> Sequence[Frame]:
        """As `frames`, of one or more chunks in order that were looked up before: a look-up costs 20 µs."""
        self.require_chunks(chunks)
        return [frame for chunk in chunks for frame in self._frames(chunk)]

    def check_chunk(self, chunk: StoredChunk) -> None:
        """Decode one chunk and compare it with its digest. Raises `NeedBytes`, DataLoss."""
        self._require(chunk.start, chunk.length, [chunk])
        self._plain(chunk, self._kept(chunk))

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

    def _stored(self, chunk: StoredChunk) -> memoryview:
        """The chunk as it lies in its pack."""
        place = self._packs.place(chunk)
        stored = self._packs.read(place.offset, place.length)
        if (not self._cipher or self._compares_digests) and check_of(stored) != chunk.check:
            raise self._damaged(chunk, ALTERED)
        if self._on_read:
            self._on_read(chunk.length)
        return memoryview(stored)

    def _kept(self, chunk: StoredChunk) -> memoryview:
        """The chunk as it was before it was sealed, if it was; good until the next call in this thread."""
        if self._cipher is None:
            return self._stored(chunk)
        if len(_scratch.content) < chunk.form_length:
            _scratch.content = bytearray(chunk.form_length)
        return self._opened(self._cipher, chunk, memoryview(_scratch.content)[: chunk.form_length])

    def _own(self, chunk: StoredChunk) -> memoryview:
        """As `_kept`, good for ever."""
        if self._cipher is None:
            return self._stored(chunk)
        return self._opened(self._cipher, chunk, memoryview(bytearray(chunk.form_length)))

    def _opened(self, cipher: ChunkCipher, chunk: StoredChunk, content: memoryview) -> memoryview:
        stored = self._stored(chunk)
        if not open_chunk(cipher, chunk, stored, content):
            is_intact = check_of(stored) == chunk.check
            raise self._damaged(chunk, FOREIGN if is_intact else ALTERED)
        return content

    def _pieces(self, chunk: StoredChunk, start: int, end: int) -> Iterator[tuple[int, Buffer]]:
        """(place on the disk, bytes) of the chunk's frames that touch the range."""
        if chunk.form != Codec.ZSTD or self._compares_digests:
            kept = self._own(chunk) if chunk.form == Codec.RAW else self._kept(chunk)
            yield chunk.start, self._plain(chunk, kept)
            return
        yield from [
            (at, self._decoded(chunk, frame, length))
            for at, length, frame in _cut(chunk, self._kept(chunk))
            if at < end and at + length > start
        ]

    def _plain(self, chunk: StoredChunk, kept: memoryview) -> Buffer:
        """The chunk's bytes."""
        plain: Buffer = kept
        if chunk.form == Codec.ZSTD:
            frames = [self._decoded(chunk, frame, length) for _, length, frame in _cut(chunk, kept)]
            plain = frames[0] if len(frames) == 1 else b"".join(frames)
        elif chunk.form == Codec.RECORD:
            plain = self._record(chunk, kept)
        if self._compares_digests and self._digest(chunk, plain) != chunk.digest:
            raise self._damaged(chunk, "its bytes do not have its digest")
        return plain

    def _digest(self, chunk: StoredChunk, plain: Buffer) -> bytes:
        return self._cipher.chunk_digest(chunk.start, plain) if self._cipher else blake3(plain).digest()

    def _record(self, chunk: StoredChunk, frames: memoryview) -> bytes:
        plain = unzstd_frames(frames, chunk.length)
        if plain is None:
            raise self._damaged(chunk, "its zstd frames are damaged")
        return plain

    def _decoded(self, chunk: StoredChunk, frame: memoryview, length: int) -> bytes:
        try:
            return decode_frame(frame, length)
        except ValueError as error:
            raise self._damaged(chunk, str(error)) from None

    def _frames(self, chunk: StoredChunk) -> list[Frame]:
        if chunk.form == Codec.RAW:
            return [Frame(chunk.start, chunk.length, None)]
        if chunk.form == Codec.RECORD:
            # With checksums or without: its check has proved the bytes, and nobody makes them better.
            return [Frame(chunk.start, chunk.length, self._own(chunk))]
        try:
            return [
                # A frame without checksum is good to read, and not good enough to travel.
                Frame(start, length, frame if check_frame_header(frame, length) else None)
                for start, length, frame in _cut(chunk, self._own(chunk))
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
        return [(chunk.start, chunk.length, chunk.form_length)]
    return [
        (chunk.start, chunk.first_length, chunk.first_stored),
        (
            chunk.start + chunk.first_length,
            chunk.length - chunk.first_length,
            chunk.form_length - chunk.first_stored,
        ),
    ]


def _cut(chunk: StoredChunk, kept: memoryview) -> list[tuple[int, int, memoryview]]:
    """As `_parts`, with the bytes of each."""
    rest = kept
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
    cipher: ChunkCipher | None = None,
) -> AsyncIterator[ChunkReader]:
    """Open a stored image; the caller holds its manifest; see `ChunkReader`. Raises DataLoss, Unavailable.

    DataLoss has the reason KEY_MISMATCH when the manifest was not written with the key of ``cipher``.
    """
    manifest = await open_manifest(store, manifest_id, pool)
    yield ChunkReader(store, manifest, digests=digests, on_read=on_read, cipher=cipher)


class _Scratch(threading.local):
    """Room for what was sealed, one a thread: making it anew costs as much as opening the chunk."""

    def __init__(self) -> None:
        self.content = bytearray()


_scratch = _Scratch()
