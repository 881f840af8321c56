"""Disks for the tests of formats: made, written and read; sources that are late; disks made of frames."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import zstandard

from imsd.contract import ByteRange
from imsd.formats.output import Framed, Output, Zeros
from imsd.formats.source import (
    BlockSource,
    ByteSource,
    Extent,
    FetchedSource,
    FileSource,
    Frame,
    FrameSource,
    NeedBytes,
)
from imsd.formats.writer import FormatWriter

R = TypeVar("R")

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LIMIT = 64 << 40

COMPRESSOR = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)


def qemu_img(*arguments: str | Path) -> str:
    """What `qemu-img` prints; fails the test when it fails."""
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def text(length: int, seed: int = 0) -> bytes:
    """Bytes that compress to about a third."""
    words = [b"image ", b"cluster ", b"offset ", b"refcount ", b"0x%08x " % seed, b"\n"]
    chosen = random.Random(seed)
    return b"".join(chosen.choices(words, k=length // 4 + 1)).ljust(length, b".")[:length]


def noise(length: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(length)


def sparse_file(path: Path, size: int, pieces: Iterable[tuple[int, bytes]]) -> Path:
    """A file of ``size`` bytes with ``pieces`` (offset, content) in it and holes elsewhere."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
        assert file.seek(0, os.SEEK_END) == size
    return path


def mixed_pieces(size: int, seed: int = 0, count: int = 24) -> list[tuple[int, bytes]]:
    """Text, noise, one repeated byte and zeros, from one sector to 1 MiB, at sectors all over a disk."""
    chosen = random.Random(seed)
    pieces = [(0, text(min(size, 4096), seed)), (size - 512, noise(512, seed))]
    for number in range(count):
        length = min(chosen.choice([512, 4096, 70_144, 300_032, MIB]), size)
        offset = chosen.randrange(0, size - length + 1) // 512 * 512
        content = chosen.choice([text(length, number), noise(length, number), b"a" * length, bytes(length)])
        pieces.append((offset, content))
    return pieces


def write_file(writer: FormatWriter, path: Path) -> Path:
    """Run a writer by the letter of its contract: measure, then the pieces in order, then what closes it."""
    for task in writer.measure():
        task()
    with path.open("wb") as file:
        for piece in writer.pieces():
            write_outputs(file, writer.in_turn(piece()))
        write_outputs(file, writer.closing())
        file.truncate(file.tell())
    assert path.stat().st_size == writer.file_size_bytes()
    return path


def write_outputs(file: IO[bytes], outputs: Iterable[Output]) -> None:
    for output in outputs:
        if isinstance(output, Zeros):
            assert output.length > 0
            file.seek(output.length, os.SEEK_CUR)
        else:
            file.write(bytes_of([output]))


def bytes_of(outputs: Iterable[Output]) -> bytes:
    """What ``outputs`` stand for; frames are told from what the decoder says of them."""
    content = bytearray()
    for output in outputs:
        if isinstance(output, Zeros):
            content += bytes(output.length)
        elif isinstance(output, Framed):
            plain = zstandard.decompress(bytes(output.frame))
            assert len(plain) == output.length
            content += plain
        else:
            content += output
    return bytes(content)


def read_all(blocks: BlockSource, window: int = 4 * MIB) -> bytes:
    """A disk as a reader in windows sees it: zeros where its extents say so, its bytes elsewhere."""
    content = bytearray(blocks.size_bytes)
    view = memoryview(content)
    for start in range(0, blocks.size_bytes, window):
        length = min(window, blocks.size_bytes - start)
        extents = blocks.extents(start, length)
        check_cover(extents, start, length)
        for extent in extents:
            if not extent.is_zero:
                blocks.read_into(extent.start, view[extent.start : extent.end])
    return bytes(content)


def read_range(blocks: BlockSource, offset: int, length: int) -> bytes:
    """``length`` bytes, read over a buffer full of something else."""
    buffer = bytearray(b"\xee" * length)
    blocks.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def check_cover(extents: Sequence[Extent], start: int, length: int) -> None:
    """Extents must cover a range exactly, in order."""
    position = start
    for extent in extents:
        assert extent.start == position
        assert extent.length > 0
        position = extent.end
    assert position == start + length


class LateSource(FetchedSource):
    """A file whose bytes are at hand only inside `fetching`, and only those that were asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)
        self.fetched_bytes = 0
        self._at_hand = np.zeros(len(content), np.bool_)

    def require(self, ranges: Sequence[ByteRange]) -> None:
        if not all(self._has(wanted) for wanted in ranges):
            raise NeedBytes(self, ranges)

    def fetching(self, ranges: Sequence[ByteRange]) -> AbstractAsyncContextManager[None]:
        return self._fetch(ranges)

    @asynccontextmanager
    async def _fetch(self, ranges: Sequence[ByteRange]) -> AsyncIterator[None]:
        self.add(ranges)
        yield
        self.let_go()

    def add(self, ranges: Sequence[ByteRange]) -> None:
        for wanted in ranges:
            self._at_hand[wanted.offset : wanted.end] = True
            self.fetched_bytes += wanted.length

    def let_go(self) -> None:
        self._at_hand[:] = False

    def _has(self, wanted: ByteRange) -> bool:
        return bool(self._at_hand[wanted.offset : wanted.end].all())

    def _read(self, offset: int, length: int) -> bytes:
        self.require([ByteRange(offset, length)])
        return self._content[offset : offset + length]


def with_fetches(source: LateSource, call: Callable[[], R]) -> tuple[R, int]:
    """What ``call`` returns once it has all its bytes, and how often bytes had to be fetched."""
    for rounds in range(64):
        try:
            return call(), rounds
        except NeedBytes as need:
            source.add(need.ranges)
    raise AssertionError("it never has enough")


class CutDisk(FrameSource):
    """A disk in memory, cut into pieces as the store would: frames, plain pieces, zeros between."""

    def __init__(self, size: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        self.size_bytes = size
        self.frames_read = 0
        self._pieces: list[Frame] = []
        self._content = bytearray(size)
        for start, plain in pieces:
            frame = COMPRESSOR.compress(plain)
            self._content[start : start + len(plain)] = plain
            self._pieces.append(Frame(start, len(plain), frame if len(frame) < len(plain) else None))

    @property
    def content(self) -> bytes:
        return bytes(self._content)

    def _touching(self, start: int, length: int) -> list[Frame]:
        return [p for p in self._pieces if p.start < start + length and start < p.start + p.length]

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        position = start
        for piece in self._touching(start, length):
            low, high = max(piece.start, start), min(piece.start + piece.length, start + length)
            if position < low:
                found.append(Extent(position, low - position, True))
            found.append(Extent(low, high - low, False))
            position = high
        if position < start + length:
            found.append(Extent(position, start + length - position, True))
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._content[offset : offset + len(buffer)]

    def require(self, pieces: Sequence[tuple[int, int]]) -> None:
        return None

    def frame_table(self, start: int, length: int) -> Sequence[tuple[int, int, int]]:
        return [(p.start, p.length, len(p.frame or b"")) for p in self._touching(start, length)]

    def frames(self, start: int, length: int) -> Sequence[Frame]:
        found = self._touching(start, length)
        self.frames_read += len(found)
        return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_source(path: Path, opened: list[int]) -> ByteSource:
    """A source of a local file; its descriptor is added to ``opened`` for the caller to close."""
    opened.append(os.open(path, os.O_RDONLY))
    return FileSource(opened[-1])
