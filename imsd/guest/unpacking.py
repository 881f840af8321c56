"""Compressed streams in pieces of bounded size, however much a byte of them unpacks to."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator

import zstandard

from .volume import GuestUnreadable, Volume

# Of the stream at a time, and the most that comes out at a time.
INPUT_BYTES = 256 << 10
OUTPUT_BYTES = 1 << 20
# Its decoder unpacks all that it is given at once: of this, 32 MiB at most.
ZSTD_INPUT_BYTES = 1 << 10
# A stream that wants a larger window is refused by its decoder.
MAX_DECODER_BYTES = 64 << 20


class Unpacking:
    """Iterates over what the stream from ``start`` on unpacks to.

    Ends with the stream, or where ``volume`` cuts it short; `position` is then where it ended.
    ``compression``: gzip, xz, lzma, bzip2 or zstd. Iterating raises `GuestUnreadable` for what is no such
    stream.
    """

    def __init__(self, volume: Volume, start: int, compression: str) -> None:
        self._source = _Source(volume, start)
        self._pieces = _pieces(self._source, compression)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    @property
    def position(self) -> int:
        return self._source.position


def _pieces(source: _Source, compression: str) -> Iterator[bytes]:
    try:
        match compression:
            case "gzip":
                yield from _deflated(source)
            case "zstd":
                yield from _zstd(source)
            case "bzip2":
                yield from _fed(source, bz2.BZ2Decompressor())
            case _:
                yield from _fed(source, lzma.LZMADecompressor(memlimit=MAX_DECODER_BYTES))
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise GuestUnreadable(f"{compression} data that is damaged") from error


class _Source:
    """A volume as a file that is read once, front to back."""

    def __init__(self, volume: Volume, position: int) -> None:
        self._volume = volume
        self.position = position

    def read(self) -> bytes:
        length = min(INPUT_BYTES, self._volume.size_bytes - self.position)
        content = self._volume.read(self.position, length)
        self.position += length
        return content

    def give_back(self, unused: bytes) -> None:
        """What was read beyond the end of the stream."""
        self.position -= len(unused)


def _deflated(source: _Source) -> Iterator[bytes]:
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while not decoder.eof:
        piece = decoder.unconsumed_tail or source.read()
        content = decoder.decompress(piece, OUTPUT_BYTES)
        if content:
            yield content
        elif not piece:
            return
    source.give_back(decoder.unused_data)


def _fed(source: _Source, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> Iterator[bytes]:
    while not decoder.eof:
        piece = source.read() if decoder.needs_input else b""
        if decoder.needs_input and not piece:
            return
        content = decoder.decompress(piece, OUTPUT_BYTES)
        if content:
            yield content
    source.give_back(decoder.unused_data)


def _zstd(source: _Source) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_DECODER_BYTES).decompressobj()
    while piece := source.read():
        for start in range(0, len(piece), ZSTD_INPUT_BYTES):
            content = decoder.decompress(piece[start : start + ZSTD_INPUT_BYTES])
            for place in range(0, len(content), OUTPUT_BYTES):
                yield content[place : place + OUTPUT_BYTES]
            if decoder.eof:
                source.give_back(decoder.unused_data + piece[start + ZSTD_INPUT_BYTES :])
                return
